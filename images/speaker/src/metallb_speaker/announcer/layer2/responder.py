"""The responder: one `Port` per interface turns a question into its answer.

`Port.answer` is the path of every frame that the kernel's filter lets through. It accepts the common
shapes by comparing octets, and leaves all else to the decoders, which name the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from metallb_speaker.announcer.layer2 import arp, ndp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.frames import ArpAnswer, NdpAnswer

#: What octets 12 to 21 of the common question are: IPv6, no flow label, 32 octets of ICMPv6, hop limit 255.
_NDP_HEAD = b"\x86\xdd\x60\0\0\0\x00\x20\x3a\xff"
_NDP_TYPE = bytes((ndp.SOLICITATION, 0))
#: The sum of addresses and payload of a message of 32 octets whose checksum is right.
_NDP_SUM = 65535 - (32 + ndp.ICMPV6)
_ARP_REQUEST = arp.PREAMBLE + b"\x00\x01"


@dataclass(frozen=True, slots=True)
class Heard:
    """Another host says that it holds `ip` (4 or 16 octets): an answer to a probe, or a claim.

    `gratuitous`: nobody asked; the frame moves caches.
    """

    ip: bytes
    mac: bytes
    gratuitous: bool


class Port:
    """The addresses of one interface, and what to answer for them.

    `heard` is called for frames in which another host says that it holds an address known here.
    """

    def __init__(self, mac: bytes, heard: Callable[[Heard], None] | None = None) -> None:
        self.mac = mac
        self.arp: dict[bytes, ArpAnswer] = {}
        self.ndp: dict[bytes, NdpAnswer] = {}
        self.drops: Counter[str] = Counter()
        self._heard = heard

    def add(self, ip: bytes, address: str) -> ArpAnswer | NdpAnswer:
        """Know `ip`; silent until `active`. Known already: the same answer, its counts kept."""
        if len(ip) == 4:
            return self.arp.setdefault(ip, ArpAnswer(self.mac, ip, address))
        return self.ndp.setdefault(ip, NdpAnswer(self.mac, ip, address))

    def get(self, ip: bytes) -> ArpAnswer | NdpAnswer | None:
        return self.arp.get(ip) if len(ip) == 4 else self.ndp.get(ip)

    def remove(self, ip: bytes) -> None:
        """From now on silent for `ip`."""
        (self.arp if len(ip) == 4 else self.ndp).pop(ip, None)

    def answer_arp(self, frame: bytes) -> bytes | None:
        """The reply to an ARP frame, or None. Never raises."""
        answer = self.arp.get(frame[38:42])
        if answer is not None and frame[12:22] == _ARP_REQUEST and (frame[0] & 1 or frame[:6] == self.mac):
            sha = frame[22:28]
            if not sha[0] & 1 and sha != self.mac and sha != eth.ZERO_MAC and frame[28:32] != frame[38:42]:
                answer.received += 1
                if answer.active:
                    answer.sent += 1
                    return answer.reply(frame)
                self.drops[eth.CHECKING] += 1
                return None
        self.drops[self._arp_refusal(frame)] += 1
        return None

    def _arp_refusal(self, frame: bytes) -> str:
        try:
            message = arp.decode(frame)
        except eth.DecodeError as error:
            return error.reason
        if message.sha == self.mac or message.src == self.mac:
            return eth.OWN_FRAME
        if not message.dst[0] & 1 and message.dst != self.mac:
            return eth.NOT_FOR_US
        if not eth.is_host(message.sha):
            return eth.BAD_SENDER
        if message.op not in (arp.REQUEST, arp.REPLY):
            return eth.NOT_A_REQUEST
        # A request for another host's address never comes this far (`filter`), whoever it claims to be from.
        if message.spa in self.arp and (message.op == arp.REPLY or message.tpa in self.arp):
            if self._heard is not None:
                self._heard(Heard(message.spa, message.sha, message.is_gratuitous))
            return eth.FOREIGN_CLAIM
        return eth.NOT_A_REQUEST if message.op == arp.REPLY else eth.NOT_OWNED

    def answer_ndp(self, frame: bytes) -> bytes | None:
        """The advertisement that answers a neighbor solicitation, or None. Never raises."""
        answer = self.ndp.get(frame[62:78])
        if answer is not None and frame[12:22] == _NDP_HEAD and frame[54:56] == _NDP_TYPE and frame[78:80] == b"\1\1":
            # 24 octets and one source link-layer option, as nearly every host asks: checked here, in one pass.
            source, dst = frame[22:38], frame[80:86]
            if (
                len(frame) >= 86
                and (frame[0] & 1 or frame[:6] == self.mac)
                and int.from_bytes(frame[22:86], "big") % 65535 == _NDP_SUM
                and not dst[0] & 1
                and dst != self.mac
                and dst != eth.ZERO_MAC
                and frame[6:12] != self.mac
                and source[0] != 0xFF
                and source != ndp.UNSPECIFIED
                and answer.active
            ):
                answer.received += 1
                answer.sent += 1
                return answer.reply(dst, source)
        found = self._answer_ndp(frame)
        if isinstance(found, bytes):
            return found
        self.drops[found] += 1
        return None

    def _answer_ndp(self, frame: bytes) -> bytes | str:
        """Every other shape: the answer, or the reason for none."""
        try:
            message = ndp.decode(frame)
        except eth.DecodeError as error:
            return error.reason
        mac = message.link_layer or message.src
        if message.src == self.mac or mac == self.mac:
            return eth.OWN_FRAME
        if not message.dst[0] & 1 and message.dst != self.mac:
            return eth.NOT_FOR_US
        if not eth.is_host(mac):
            return eth.BAD_SENDER
        answer = self.ndp.get(message.target)
        if message.kind == ndp.ADVERTISEMENT:
            if answer is None:
                return eth.NOT_A_REQUEST
            if self._heard is not None:
                gratuitous = message.destination[0] == 0xFF and bool(message.flags & ndp.OVERRIDE)
                self._heard(Heard(message.target, mac, gratuitous))
            return eth.FOREIGN_CLAIM
        if answer is None:
            return eth.NOT_OWNED
        answer.received += 1
        if not answer.active:
            return eth.CHECKING
        answer.sent += 1
        return answer.dad_reply() if message.is_dad else answer.reply(mac, message.source)

    def unsent(self, reply: bytes) -> None:
        """The kernel did not take this reply: it does not count as sent."""
        answer = self.get(reply[28:32] if reply[12:14] == b"\x08\x06" else reply[22:38])
        if answer is not None:
            answer.sent -= 1
        self.drops[eth.SEND_FAILED] += 1

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to a frame of either protocol; for callers that have not told them apart."""
        return self.answer_ndp(frame) if frame[12:14] == b"\x86\xdd" else self.answer_arp(frame)
