"""UPDATE (RFC 4271 section 4.3, RFC 4760, RFC 8950), packed as full as the session allows.

At run time only the encoder is used: what a peer sends is framed, counted and dropped. The decoder
serves tests and debugging.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import attributes as attrs
from .attributes import PathAttributes
from .capabilities import AFI, FAMILY, UNICAST, Family
from .errors import (
    INVALID_NETWORK,
    MALFORMED_ATTRIBUTES,
    MISSING_WELLKNOWN,
    OPTIONAL_ATTRIBUTE_ERROR,
    Code,
    NotificationError,
)
from .framing import HEADER, MAX_MESSAGE, MessageType, frame
from .prefix import Network, Prefix

NextHop = ipaddress.IPv4Address | ipaddress.IPv6Address


def _pack(prefixes: Sequence[Prefix], room: int) -> Iterator[bytes]:
    """Encoded prefixes, joined while they fit into `room` octets."""
    raws = [prefix[1:] for prefix in prefixes]
    size = len(raws[0]) if raws else 0
    if all(len(raw) == size for raw in raws):
        step = max(1, room // size) if size else 1
        for start in range(0, len(raws), step):
            yield b"".join(raws[start : start + step])
        return
    parts: list[bytes] = []
    used = 0
    for raw in raws:
        if used + len(raw) > room:
            yield b"".join(parts)
            parts, used = [], 0
        parts.append(raw)
        used += len(raw)
    if parts:
        yield b"".join(parts)


def announce(
    family: Family,
    prefixes: Sequence[Prefix],
    next_hop: NextHop,
    attributes: PathAttributes,
    *,
    four_octet: bool,
    maximum: int = MAX_MESSAGE,
) -> list[bytes]:
    """Whole UPDATE messages for prefixes of one family that share all attributes.

    IPv4 with an IPv4 next hop goes into the NLRI field; everything else into MP_REACH_NLRI, which
    comes first (RFC 7606 section 5.1). The caller offers an IPv6 next hop for IPv4 only where RFC 8950 was agreed.
    """
    if family == "ipv4" and isinstance(next_hop, ipaddress.IPv4Address):
        common = attrs.encode(attributes, four_octet=four_octet, next_hop=next_hop)
        head = struct.pack("!HH", 0, len(common)) + common
        return [frame(MessageType.UPDATE, head + nlri) for nlri in _pack(prefixes, maximum - HEADER - len(head))]
    common = attrs.encode(attributes, four_octet=four_octet, next_hop=None)
    reach = struct.pack("!HBB", AFI[family], UNICAST, len(next_hop.packed)) + next_hop.packed + b"\0"
    room = maximum - HEADER - 4 - len(common) - 4 - len(reach)
    out = []
    for nlri in _pack(prefixes, room):
        body = attrs.attribute(attrs.MP_REACH, reach + nlri) + common
        out.append(frame(MessageType.UPDATE, struct.pack("!HH", 0, len(body)) + body))
    return out


def withdraw(family: Family, prefixes: Sequence[Prefix], *, maximum: int = MAX_MESSAGE) -> list[bytes]:
    """Whole UPDATE messages that take prefixes of one family back."""
    if family == "ipv4":
        return [
            frame(MessageType.UPDATE, struct.pack("!H", len(raw)) + raw + b"\0\0")
            for raw in _pack(prefixes, maximum - HEADER - 4)
        ]
    head = struct.pack("!HB", AFI[family], UNICAST)
    out = []
    for raw in _pack(prefixes, maximum - HEADER - 4 - 4 - len(head)):
        body = attrs.attribute(attrs.MP_UNREACH, head + raw)
        out.append(frame(MessageType.UPDATE, struct.pack("!HH", 0, len(body)) + body))
    return out


def end_of_rib(family: Family) -> bytes:
    """RFC 4724 section 2: an UPDATE with nothing in it; for IPv6 an MP_UNREACH_NLRI with nothing in it."""
    if family == "ipv4":
        return frame(MessageType.UPDATE, b"\0\0\0\0")
    body = attrs.attribute(attrs.MP_UNREACH, struct.pack("!HB", AFI[family], UNICAST))
    return frame(MessageType.UPDATE, struct.pack("!HH", 0, len(body)) + body)


@dataclass(frozen=True, slots=True)
class Update:
    """A decoded UPDATE. An End-of-RIB has `end_of_rib` set and nothing else."""

    announced: tuple[Network, ...] = ()
    withdrawn: tuple[Network, ...] = ()
    next_hop: NextHop | None = None
    attributes: PathAttributes | None = None
    end_of_rib: Family | None = None


def _prefixes(data: bytes, family: Family) -> list[Network]:
    bits = 32 if family == "ipv4" else 128
    kind = ipaddress.IPv4Network if family == "ipv4" else ipaddress.IPv6Network
    out: list[Network] = []
    position = 0
    while position < len(data):
        length = data[position]
        size = (length + 7) // 8
        if length > bits or position + 1 + size > len(data):
            raise NotificationError(Code.UPDATE, INVALID_NETWORK)
        raw = data[position + 1 : position + 1 + size].ljust(bits // 8, b"\0")
        # Bits behind the prefix are of no significance (RFC 4271 section 4.3).
        out.append(kind((raw, length), strict=False))
        position += 1 + size
    return out


def _mp(value: bytes, head: int) -> tuple[Family | None, bytes]:
    if len(value) < head:
        raise NotificationError(Code.UPDATE, OPTIONAL_ATTRIBUTE_ERROR, value)
    afi, safi = struct.unpack_from("!HB", value)
    return (FAMILY.get(afi) if safi == UNICAST else None), value[3:]


def decode(body: bytes, *, four_octet: bool = True) -> Update:
    """Raises NotificationError (RFC 4271 section 6.3)."""
    if len(body) < 4:
        raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
    withdrawn_length = int.from_bytes(body[:2])
    if 2 + withdrawn_length + 2 > len(body):
        raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
    start = 2 + withdrawn_length + 2
    length = int.from_bytes(body[start - 2 : start])
    if start + length > len(body):
        raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
    withdrawn = _prefixes(body[2 : 2 + withdrawn_length], "ipv4")
    announced = _prefixes(body[start + length :], "ipv4")
    values = attrs.split(body[start : start + length])
    if not withdrawn and not announced and not values:
        return Update(end_of_rib="ipv4")
    attributes, v4_next_hop = attrs.decode(values, four_octet=four_octet)
    next_hop: NextHop | None = v4_next_hop
    if announced:
        for kind in (attrs.ORIGIN, attrs.AS_PATH, attrs.NEXT_HOP):
            if kind not in values:
                raise NotificationError(Code.UPDATE, MISSING_WELLKNOWN, bytes((kind,)))
    if attrs.MP_REACH in values:
        family, rest = _mp(values[attrs.MP_REACH], 5)
        size = rest[0]
        if size not in (4, 16, 32) or len(rest) < 2 + size:
            raise NotificationError(Code.UPDATE, OPTIONAL_ATTRIBUTE_ERROR, values[attrs.MP_REACH])
        next_hop = ipaddress.IPv4Address(rest[1:5]) if size == 4 else ipaddress.IPv6Address(rest[1:17])
        for kind in (attrs.ORIGIN, attrs.AS_PATH):  # RFC 4760 section 3
            if kind not in values:
                raise NotificationError(Code.UPDATE, MISSING_WELLKNOWN, bytes((kind,)))
        if family is not None:
            announced += _prefixes(rest[2 + size :], family)
    if attrs.MP_UNREACH in values:
        family, rest = _mp(values[attrs.MP_UNREACH], 3)
        if family is not None:
            if not rest and len(values) == 1 and not announced and not withdrawn:
                return Update(end_of_rib=family)
            withdrawn += _prefixes(rest, family)
    return Update(tuple(announced), tuple(withdrawn), next_hop, attributes if announced else None)
