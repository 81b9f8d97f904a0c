"""ARP for IPv4 over Ethernet (RFC 826), with the probe and the announcement of RFC 5227.

::

     0        6        12    14    16    18  19  20    22       28    32       38    42
     | dst    | src    | 0806| 0001| 0800| 06| 04| op  | sha    | spa | tha    | tpa |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from metallb_speaker.announcer.layer2 import ethernet as eth

REQUEST: Final = 1
REPLY: Final = 2
LENGTH: Final = 42  # octets; what follows in a frame is Ethernet's padding to 60
#: Type, hardware type Ethernet, protocol type IPv4, lengths 6 and 4: octets 12 to 19 of every frame of ours.
PREAMBLE: Final = b"\x08\x06\x00\x01\x08\x00\x06\x04"
UNSPECIFIED: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class Arp:
    """One ARP frame. MAC addresses are 6 octets, IPv4 addresses 4; field names are those of RFC 826."""

    dst: bytes
    src: bytes
    op: int
    sha: bytes
    spa: bytes
    tha: bytes
    tpa: bytes

    @property
    def is_probe(self) -> bool:
        """Sent before using an address: the sender's is unspecified (RFC 5227 section 2.1.1)."""
        return self.op == REQUEST and self.spa == UNSPECIFIED

    @property
    def is_gratuitous(self) -> bool:
        """Sender and target address are the same: a claim, in request or reply form (RFC 5227 section 2.3)."""
        return self.spa == self.tpa and self.spa != UNSPECIFIED

    def encode(self) -> bytes:
        """The frame, without padding: drivers pad."""
        return (
            self.dst + self.src + PREAMBLE + self.op.to_bytes(2, "big") + self.sha + self.spa + self.tha + self.tpa
        )  # fmt: skip


def decode(frame: bytes) -> Arp:
    """The frame's fields; padding is ignored. Raises DecodeError unless it is ARP for IPv4 over Ethernet."""
    eth.check_header(frame, eth.ETH_P_ARP)
    if len(frame) < 20:
        raise eth.DecodeError(eth.TRUNCATED)
    if frame[12:20] != PREAMBLE:
        raise eth.DecodeError(eth.NOT_ETHERNET_IPV4)
    if len(frame) < LENGTH:
        raise eth.DecodeError(eth.TRUNCATED)
    return Arp(
        dst=frame[0:6],
        src=frame[6:12],
        op=frame[20] << 8 | frame[21],
        sha=frame[22:28],
        spa=frame[28:32],
        tha=frame[32:38],
        tpa=frame[38:42],
    )


def request(mac: bytes, sender: bytes, target: bytes) -> bytes:
    """Who has `target`? Broadcast, the target hardware address zero."""
    return Arp(eth.BROADCAST, mac, REQUEST, mac, sender, eth.ZERO_MAC, target).encode()


def probe(mac: bytes, target: bytes) -> bytes:
    """RFC 5227 section 2.1.1: a request that changes nobody's cache."""
    return request(mac, UNSPECIFIED, target)


def announcements(mac: bytes, ip: bytes) -> tuple[bytes, bytes]:
    """A claim in request form (RFC 5227 section 2.3), and in reply form: some hosts listen to one only."""
    return (
        Arp(eth.BROADCAST, mac, REQUEST, mac, ip, eth.ZERO_MAC, ip).encode(),
        Arp(eth.BROADCAST, mac, REPLY, mac, ip, eth.BROADCAST, ip).encode(),
    )
