"""Path attributes (RFC 4271 section 4.3 and 5.1), as far as routes of this speaker carry them.

AS numbers are four octets wide on sessions where both sides offered it (RFC 6793), else two.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from .errors import (
    FLAGS_ERROR,
    INVALID_NEXT_HOP,
    INVALID_ORIGIN,
    LENGTH_ERROR,
    MALFORMED_AS_PATH,
    MALFORMED_ATTRIBUTES,
    Code,
    NotificationError,
)
from .messages import AS_TRANS

ORIGIN, AS_PATH, NEXT_HOP, MED, LOCAL_PREF = 1, 2, 3, 4, 5
COMMUNITIES = 8  # RFC 1997
MP_REACH, MP_UNREACH = 14, 15  # RFC 4760
AS4_PATH = 17  # RFC 6793
LARGE_COMMUNITIES = 32  # RFC 8092

OPTIONAL, TRANSITIVE, EXTENDED = 0x80, 0x40, 0x10
AS_SET, AS_SEQUENCE = 1, 2

#: The flags that each known attribute must carry, apart from EXTENDED and PARTIAL.
FLAGS = {
    ORIGIN: TRANSITIVE,
    AS_PATH: TRANSITIVE,
    NEXT_HOP: TRANSITIVE,
    MED: OPTIONAL,
    LOCAL_PREF: TRANSITIVE,
    COMMUNITIES: OPTIONAL | TRANSITIVE,
    MP_REACH: OPTIONAL,
    MP_UNREACH: OPTIONAL,
    AS4_PATH: OPTIONAL | TRANSITIVE,
    LARGE_COMMUNITIES: OPTIONAL | TRANSITIVE,
}


@dataclass(frozen=True, slots=True)
class PathAttributes:
    """What routes with these attributes share; the next hop is kept beside it."""

    as_path: tuple[int, ...] = ()  # one AS_SEQUENCE; empty on iBGP
    local_pref: int | None = None  # iBGP only
    communities: tuple[tuple[int, int], ...] = ()
    large_communities: tuple[tuple[int, int, int], ...] = ()
    origin: int = 0  # IGP
    med: int | None = None


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its flags; extended length where the value needs it."""
    flags = FLAGS[kind]
    if len(value) > 255:
        return struct.pack("!BBH", flags | EXTENDED, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def _sequence(path: tuple[int, ...], four: bool) -> bytes:
    out = b""
    for start in range(0, len(path), 255):  # a segment counts in one octet
        part = path[start : start + 255]
        if four:
            out += struct.pack(f"!BB{len(part)}I", AS_SEQUENCE, len(part), *part)
        else:
            short = [a if a < 1 << 16 else AS_TRANS for a in part]
            out += struct.pack(f"!BB{len(part)}H", AS_SEQUENCE, len(part), *short)
    return out


def encode(a: PathAttributes, *, four_octet: bool, next_hop: ipaddress.IPv4Address | None) -> bytes:
    """All attributes but MP_REACH, in ascending order. `next_hop`: of routes in the NLRI field."""
    out = attribute(ORIGIN, bytes((a.origin,))) + attribute(AS_PATH, _sequence(a.as_path, four_octet))
    if next_hop is not None:
        out += attribute(NEXT_HOP, next_hop.packed)
    if a.med is not None:
        out += attribute(MED, struct.pack("!I", a.med))
    if a.local_pref is not None:
        out += attribute(LOCAL_PREF, struct.pack("!I", a.local_pref))
    if a.communities:
        out += attribute(COMMUNITIES, b"".join(struct.pack("!HH", *c) for c in a.communities))
    if not four_octet and any(asn >= 1 << 16 for asn in a.as_path):
        out += attribute(AS4_PATH, _sequence(a.as_path, True))  # RFC 6793 section 4.2.2
    if a.large_communities:
        out += attribute(LARGE_COMMUNITIES, b"".join(struct.pack("!III", *c) for c in a.large_communities))
    return out


def split(data: bytes) -> dict[int, bytes]:
    """Attribute values by type. Raises NotificationError (RFC 4271 section 6.3)."""
    out: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + 3 > len(data):
            raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
        flags, kind = data[position], data[position + 1]
        wide = bool(flags & EXTENDED)
        head = 4 if wide else 3
        if position + head > len(data):
            raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
        size = int.from_bytes(data[position + 2 : position + head])
        end = position + head + size
        if end > len(data):
            raise NotificationError(Code.UPDATE, LENGTH_ERROR, data[position:])
        if kind in FLAGS and (flags & (OPTIONAL | TRANSITIVE)) != FLAGS[kind]:
            raise NotificationError(Code.UPDATE, FLAGS_ERROR, data[position:end])
        if kind in out:
            raise NotificationError(Code.UPDATE, MALFORMED_ATTRIBUTES)
        out[kind] = data[position + head : end]
        position = end
    return out


def _whole(kind: int, value: bytes, size: int) -> None:
    if len(value) % size or not value:
        raise NotificationError(Code.UPDATE, LENGTH_ERROR, attribute(kind, value))


def _decode_path(value: bytes, four: bool) -> tuple[int, ...]:
    width = 4 if four else 2
    path: list[int] = []
    position = 0
    while position < len(value):
        if position + 2 > len(value):
            raise NotificationError(Code.UPDATE, MALFORMED_AS_PATH)
        kind, count = value[position], value[position + 1]
        position += 2
        end = position + count * width
        if kind not in (AS_SET, AS_SEQUENCE, 3, 4) or count == 0 or end > len(value):
            raise NotificationError(Code.UPDATE, MALFORMED_AS_PATH)
        path += [int.from_bytes(value[i : i + width]) for i in range(position, end, width)]
        position = end
    return tuple(path)


def decode(values: dict[int, bytes], *, four_octet: bool) -> tuple[PathAttributes, ipaddress.IPv4Address | None]:
    """The attributes and the NEXT_HOP, from `split`. Raises NotificationError."""
    origin = values.get(ORIGIN, b"\0")
    if len(origin) != 1:
        raise NotificationError(Code.UPDATE, LENGTH_ERROR, attribute(ORIGIN, origin))
    if origin[0] > 2:
        raise NotificationError(Code.UPDATE, INVALID_ORIGIN, attribute(ORIGIN, origin))
    next_hop = None
    if NEXT_HOP in values:
        raw = values[NEXT_HOP]
        if len(raw) != 4:
            raise NotificationError(Code.UPDATE, LENGTH_ERROR, attribute(NEXT_HOP, raw))
        next_hop = ipaddress.IPv4Address(raw)
        if next_hop.is_unspecified or next_hop.is_multicast:
            raise NotificationError(Code.UPDATE, INVALID_NEXT_HOP, attribute(NEXT_HOP, raw))
    numbers: dict[int, int | None] = {}
    for kind in (MED, LOCAL_PREF):
        if kind in values and len(values[kind]) != 4:
            raise NotificationError(Code.UPDATE, LENGTH_ERROR, attribute(kind, values[kind]))
        numbers[kind] = int.from_bytes(values[kind]) if kind in values else None
    plain: list[tuple[int, int]] = []
    if COMMUNITIES in values:
        _whole(COMMUNITIES, values[COMMUNITIES], 4)
        plain = [(a, b) for a, b in struct.iter_unpack("!HH", values[COMMUNITIES])]
    large: list[tuple[int, int, int]] = []
    if LARGE_COMMUNITIES in values:
        _whole(LARGE_COMMUNITIES, values[LARGE_COMMUNITIES], 12)
        large = [(a, b, c) for a, b, c in struct.iter_unpack("!III", values[LARGE_COMMUNITIES])]
    path = _decode_path(values.get(AS_PATH, b""), four_octet)
    if not four_octet and AS4_PATH in values:
        wide = _decode_path(values[AS4_PATH], True)
        if len(wide) <= len(path):  # RFC 6793 section 4.2.3
            path = path[: len(path) - len(wide)] + wide
    return (
        PathAttributes(path, numbers[LOCAL_PREF], tuple(plain), tuple(large), origin[0], numbers[MED]),
        next_hop,
    )
