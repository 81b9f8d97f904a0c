"""Answers prepared once per (interface, address): a reply is the requester's octets put between ours.

Nothing is parsed twice and no checksum is summed anew: the ICMPv6 checksum of the template is known
without its destination, which is added modulo 65535 (RFC 1071 section 2, incremental update).
"""

from __future__ import annotations

from metallb_speaker.announcer.layer2 import arp, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth


class ArpAnswer:
    """The reply for one address on one interface, and the counts of its questions and answers.

    A class with slots, changed in place: this is the path of every frame.
    """

    __slots__ = ("active", "address", "middle", "received", "sent")

    def __init__(self, mac: bytes, ip: bytes, address: str) -> None:
        self.address = address
        #: Octets 6 to 31 of the reply: Ethernet source to sender protocol address.
        self.middle = mac + arp.PREAMBLE + b"\x00\x02" + mac + ip
        self.active = False
        self.received = 0
        self.sent = 0

    def reply(self, question: bytes) -> bytes:
        """To the sender hardware address; octets 22 to 31 of the question become the reply's target."""
        return question[22:28] + self.middle + question[22:32]


class NdpAnswer:
    """The advertisement for one address on one interface, and its counts."""

    __slots__ = ("_base", "_body", "_dad", "_head", "_kind", "active", "address", "received", "sent")

    def __init__(self, mac: bytes, ip: bytes, address: str) -> None:
        self.address = address
        self.active = False
        self.received = 0
        self.sent = 0
        frame = ndp.Neighbor(
            dst=eth.ZERO_MAC,
            src=mac,
            source=ip,
            destination=ndp.UNSPECIFIED,
            kind=ndp.ADVERTISEMENT,
            target=ip,
            flags=ndp.SOLICITED | ndp.OVERRIDE,
            link_layer=mac,
        ).encode()
        self._head = frame[6:38]  # Ethernet source to IPv6 source
        self._kind = frame[54:56]
        self._body = frame[58:]
        #: The sum that the checksum completes, with :: for the destination.
        self._base = 0xFFFF - int.from_bytes(frame[56:58], "big")
        dad = ndp.Neighbor(ndp.ALL_NODES_MAC, mac, ip, ndp.ALL_NODES, ndp.ADVERTISEMENT, ip, ndp.OVERRIDE, mac)
        self._dad = dad.encode()

    def reply(self, dst: bytes, destination: bytes) -> bytes:
        """Solicited, with override, to who asked (RFC 4861 section 7.2.4)."""
        csum = 0xFFFF - (self._base + int.from_bytes(destination, "big")) % 65535
        return dst + self._head + destination + self._kind + csum.to_bytes(2, "big") + self._body

    def dad_reply(self) -> bytes:
        """To all nodes and not solicited: who asked has no address yet (RFC 4861 section 7.2.4)."""
        return self._dad
