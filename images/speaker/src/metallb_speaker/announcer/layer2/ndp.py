"""Neighbor solicitation and advertisement (RFC 4861 sections 4.3, 4.4 and 7), in Ethernet and IPv6.

::

     0     6     12    14        18    20 21 22       38       54   55   56    58      62       78
     | dst | src | 86dd| ver,flow| plen|58|hl| source | dest   | type|code|csum| flags | target | options

Flags are octet 58: R 0x80, S 0x40, O 0x20. An option is type, length in units of 8 octets, value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from metallb_speaker.announcer.layer2 import ethernet as eth

SOLICITATION: Final = 135
ADVERTISEMENT: Final = 136
SOURCE_LINK_LAYER: Final = 1  # option types, RFC 4861 section 4.6.1
TARGET_LINK_LAYER: Final = 2
ROUTER: Final = 0x80
SOLICITED: Final = 0x40
OVERRIDE: Final = 0x20
ICMPV6: Final = 58
HOP_LIMIT: Final = 255

UNSPECIFIED: Final = bytes(16)
ALL_NODES: Final = b"\xff\x02" + bytes(13) + b"\x01"
ALL_NODES_MAC: Final = b"\x33\x33\x00\x00\x00\x01"
_SOLICITED_NODE: Final = b"\xff\x02" + bytes(9) + b"\x01\xff"

PAYLOAD: Final = 54  # where ICMPv6 starts
TARGET: Final = 62
OPTIONS: Final = 78


def solicited_node(ip: bytes) -> bytes:
    """The multicast address ff02::1:ff00:0 with the last 24 bits of an IPv6 address (RFC 4291 section 2.7.1)."""
    return _SOLICITED_NODE + ip[13:16]


def multicast_mac(group: bytes) -> bytes:
    """33:33 and the last four octets of the group (RFC 2464 section 7)."""
    return b"\x33\x33" + group[12:16]


def folded(data: bytes) -> int:
    """The one's complement sum of 16-bit words, as 0..65534: 2**16 is 1 modulo 65535, so one division does it."""
    return int.from_bytes(data, "big") % 65535 if len(data) % 2 == 0 else int.from_bytes(data + b"\0", "big") % 65535


def checksum(source: bytes, destination: bytes, payload: bytes) -> int:
    """ICMPv6 checksum over the pseudo header (RFC 8200 section 8.1); `payload` has zero in its place."""
    return 0xFFFF - (folded(source + destination) + folded(payload) + len(payload) + ICMPV6) % 65535


def checksum_ok(source: bytes, destination: bytes, payload: bytes) -> bool:
    """Whether the checksum inside `payload` is right."""
    return (folded(source + destination) + folded(payload) + len(payload) + ICMPV6) % 65535 == 0


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A solicitation or an advertisement. MAC addresses 6 octets, IPv6 addresses 16.

    `flags` are R, S and O of an advertisement; `link_layer` is the option that belongs to the type
    (source for a solicitation, target for an advertisement), b"" without one.
    """

    dst: bytes
    src: bytes
    source: bytes
    destination: bytes
    kind: int
    target: bytes
    flags: int = 0
    link_layer: bytes = b""

    @property
    def is_dad(self) -> bool:
        """Duplicate address detection: asked from the unspecified address (RFC 4862 section 5.4.2)."""
        return self.kind == SOLICITATION and self.source == UNSPECIFIED

    def encode(self) -> bytes:
        """The frame, with a right checksum."""
        body = bytes((self.flags, 0, 0, 0)) + self.target
        if self.link_layer:
            option = SOURCE_LINK_LAYER if self.kind == SOLICITATION else TARGET_LINK_LAYER
            body += bytes((option, 1)) + self.link_layer
        head = bytes((self.kind, 0))
        csum = checksum(self.source, self.destination, head + b"\0\0" + body).to_bytes(2, "big")
        payload = head + csum + body
        return (
            self.dst + self.src + b"\x86\xdd\x60\0\0\0" + len(payload).to_bytes(2, "big")
            + bytes((ICMPV6, HOP_LIMIT)) + self.source + self.destination + payload
        )  # fmt: skip


def decode(frame: bytes) -> Neighbor:
    """The fields of a valid message. Raises DecodeError, for every rule of RFC 4861 sections 7.1.1 and 7.1.2."""
    eth.check_header(frame, eth.ETH_P_IPV6)
    if len(frame) < PAYLOAD + 4:
        raise eth.DecodeError(eth.TRUNCATED)
    kind = frame[54]
    if frame[14] >> 4 != 6 or frame[20] != ICMPV6 or kind not in (SOLICITATION, ADVERTISEMENT):
        raise eth.DecodeError(eth.WRONG_TYPE)
    if frame[21] != HOP_LIMIT:
        raise eth.DecodeError(eth.BAD_HOP_LIMIT)
    end = PAYLOAD + (frame[18] << 8 | frame[19])
    if end > len(frame):
        raise eth.DecodeError(eth.TRUNCATED)
    payload, source, destination = frame[PAYLOAD:end], frame[22:38], frame[38:54]
    if not checksum_ok(source, destination, payload):
        raise eth.DecodeError(eth.BAD_CHECKSUM)
    if frame[55] != 0:
        raise eth.DecodeError(eth.BAD_CODE)
    if len(payload) < 24:
        raise eth.DecodeError(eth.BAD_LENGTH)
    target = frame[TARGET:OPTIONS]
    if target[0] == 0xFF:
        raise eth.DecodeError(eth.BAD_TARGET)
    link_layer = _link_layer(frame[OPTIONS:end], SOURCE_LINK_LAYER if kind == SOLICITATION else TARGET_LINK_LAYER)
    if source[0] == 0xFF:
        raise eth.DecodeError(eth.BAD_SOURCE)
    if kind == SOLICITATION:
        if source == UNSPECIFIED and (link_layer or destination != solicited_node(target)):
            raise eth.DecodeError(eth.BAD_SOURCE)
    elif destination[0] == 0xFF and frame[58] & SOLICITED:
        raise eth.DecodeError(eth.BAD_SOURCE)  # a solicited answer is never multicast
    return Neighbor(frame[0:6], frame[6:12], source, destination, kind, target, frame[58] & 0xE0, link_layer)


def _link_layer(options: bytes, wanted: int) -> bytes:
    """The first Ethernet address option of type `wanted`; unknown options are passed over (section 4.6)."""
    found = b""
    at = 0
    while at < len(options):
        if at + 2 > len(options) or options[at + 1] == 0 or at + 8 * options[at + 1] > len(options):
            raise eth.DecodeError(eth.BAD_OPTION)
        if options[at] == wanted and options[at + 1] == 1 and not found:
            found = options[at + 2 : at + 8]
        at += 8 * options[at + 1]
    return found


def link_local(mac: bytes) -> bytes:
    """The address that an interface has by default: fe80::/64 and the modified EUI-64 (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:6]


def probe(mac: bytes, source: bytes, target: bytes) -> bytes:
    """Who has `target`? From the interface's link-local address `source`.

    Not from ::, as RFC 4862 section 5.4.2 has it: the answer to that goes to all nodes with override, so
    that a question about an address that is just being handed over would move every cache back.
    """
    group = solicited_node(target)
    return Neighbor(multicast_mac(group), mac, source, group, SOLICITATION, target, link_layer=mac).encode()


def announcement(mac: bytes, ip: bytes) -> bytes:
    """Unsolicited advertisement to all nodes, with override (RFC 4861 section 7.2.6)."""
    return Neighbor(ALL_NODES_MAC, mac, ip, ALL_NODES, ADVERTISEMENT, ip, OVERRIDE, mac).encode()
