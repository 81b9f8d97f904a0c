"""Capabilities in OPEN (RFC 5492), those that this speaker knows.

A capability that is not known is kept as its code and bytes: it is no error (RFC 5492 section 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from .errors import Code, NotificationError

# Codes, with the document that defines each.
MULTIPROTOCOL = 1  # RFC 4760
ROUTE_REFRESH = 2  # RFC 2918
EXTENDED_NEXT_HOP = 5  # RFC 8950
EXTENDED_MESSAGE = 6  # RFC 8654
GRACEFUL_RESTART = 64  # RFC 4724
FOUR_OCTET_AS = 65  # RFC 6793
ENHANCED_REFRESH = 70  # RFC 7313

#: Address family identifiers (RFC 4760) with SAFI 1, unicast: all that is announced here.
AFI = {"ipv4": 1, "ipv6": 2}
FAMILY: dict[int, Family] = {1: "ipv4", 2: "ipv6"}
UNICAST = 1

Family = Literal["ipv4", "ipv6"]


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """RFC 4724 section 3; `notification` is the N bit of RFC 8538 section 2."""

    restarting: bool
    time: int  # seconds, 12 bits
    preserved: tuple[Family, ...]  # families whose forwarding state was kept (F bit)
    listed: tuple[Family, ...] = ()  # all families listed
    notification: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side can do. `four_octet_as` 0: not offered."""

    families: tuple[Family, ...] = ()
    four_octet_as: int = 0
    route_refresh: bool = False
    enhanced_refresh: bool = False
    extended_message: bool = False
    extended_next_hop: bool = False  # IPv4 unicast routes with an IPv6 next hop
    graceful_restart: GracefulRestart | None = None
    other: tuple[tuple[int, bytes], ...] = ()  # families that are not known here among them

    def offered(self) -> tuple[Family, ...]:
        """Without any multiprotocol capability: IPv4 unicast (RFC 4760 section 8)."""
        named = self.families or any(code == MULTIPROTOCOL for code, _ in self.other)
        return self.families if named else ("ipv4",)


def _tlv(code: int, value: bytes = b"") -> bytes:
    return bytes((code, len(value))) + value


def encode_families(families: tuple[Family, ...]) -> bytes:
    """The multiprotocol capability of each."""
    return b"".join(_tlv(MULTIPROTOCOL, struct.pack("!HBB", AFI[f], 0, UNICAST)) for f in families)


def encode(c: Capabilities) -> bytes:
    """The capabilities' TLVs, without the optional parameter's header."""
    out = [encode_families(c.families)]
    if c.route_refresh:
        out.append(_tlv(ROUTE_REFRESH))
    if c.extended_next_hop:
        out.append(_tlv(EXTENDED_NEXT_HOP, struct.pack("!HHH", 1, UNICAST, 2)))
    if c.extended_message:
        out.append(_tlv(EXTENDED_MESSAGE))
    if c.graceful_restart is not None:
        gr = c.graceful_restart
        flags = (8 if gr.restarting else 0) | (4 if gr.notification else 0)
        value = struct.pack("!H", flags << 12 | gr.time & 0xFFF)
        for f in gr.listed or gr.preserved:
            value += struct.pack("!HBB", AFI[f], UNICAST, 0x80 if f in gr.preserved else 0)
        out.append(_tlv(GRACEFUL_RESTART, value))
    if c.four_octet_as:
        out.append(_tlv(FOUR_OCTET_AS, struct.pack("!I", c.four_octet_as)))
    if c.enhanced_refresh:
        out.append(_tlv(ENHANCED_REFRESH))
    out += [_tlv(code, value) for code, value in c.other]
    return b"".join(out)


def _malformed() -> NotificationError:
    # RFC 5492 section 5 leaves the subcode of a malformed capability open: unspecific (0), as
    # RFC 4271 section 6.2 says of a recognised but malformed optional parameter.
    return NotificationError(Code.OPEN, 0)


def decode_tlvs(data: bytes) -> list[tuple[int, bytes]]:
    """(code, value) pairs of one capabilities parameter. Raises NotificationError when cut short."""
    out, position = [], 0
    while position < len(data):
        if position + 2 > len(data):
            raise _malformed()
        code, length = data[position], data[position + 1]
        if position + 2 + length > len(data):
            raise _malformed()
        out.append((code, data[position + 2 : position + 2 + length]))
        position += 2 + length
    return out


def _decode_graceful(value: bytes) -> GracefulRestart:
    if len(value) < 2 or (len(value) - 2) % 4:
        raise _malformed()
    head = int.from_bytes(value[:2])
    listed: list[Family] = []
    preserved: list[Family] = []
    for i in range(2, len(value), 4):
        afi, safi, flags = struct.unpack_from("!HBB", value, i)
        if safi == UNICAST and afi in FAMILY:
            listed.append(FAMILY[afi])
            if flags & 0x80:
                preserved.append(FAMILY[afi])
    return GracefulRestart(bool(head & 0x8000), head & 0xFFF, tuple(preserved), tuple(listed), bool(head & 0x4000))


def assemble(tlvs: list[tuple[int, bytes]]) -> Capabilities:
    """The capabilities of all parameters together. Raises NotificationError."""
    families: list[Family] = []
    seen: dict[int, bytes] = {}
    next_hop = False
    graceful: GracefulRestart | None = None
    other: list[tuple[int, bytes]] = []
    for code, value in tlvs:
        if code == MULTIPROTOCOL:
            if len(value) != 4:
                raise _malformed()
            afi, _, safi = struct.unpack("!HBB", value)
            if safi != UNICAST or afi not in FAMILY:
                other.append((code, value))
            elif FAMILY[afi] not in families:
                families.append(FAMILY[afi])
        elif code == EXTENDED_NEXT_HOP:
            if len(value) % 6:
                raise _malformed()
            next_hop |= any(struct.unpack_from("!HHH", value, i) == (1, 1, 2) for i in range(0, len(value), 6))
        elif code == GRACEFUL_RESTART:
            graceful = _decode_graceful(value)  # the last one counts (RFC 4724 section 3)
        elif code == FOUR_OCTET_AS:
            if len(value) != 4:
                raise _malformed()
            seen[code] = value
        elif code in (ROUTE_REFRESH, EXTENDED_MESSAGE, ENHANCED_REFRESH):
            seen[code] = value
        else:
            other.append((code, value))
    return Capabilities(
        families=tuple(families),
        four_octet_as=int.from_bytes(seen.get(FOUR_OCTET_AS, b"")),
        route_refresh=ROUTE_REFRESH in seen,
        enhanced_refresh=ENHANCED_REFRESH in seen,
        extended_message=EXTENDED_MESSAGE in seen,
        extended_next_hop=next_hop,
        graceful_restart=graceful,
        other=tuple(other),
    )
