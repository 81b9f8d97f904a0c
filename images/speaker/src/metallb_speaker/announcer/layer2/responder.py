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
        if message.spa in self.arp:
            if self._heard is not None:
                self._heard(Heard(message.spa, message.sha, message.is_gratuitous))
            return eth.FOREIGN_CLAIM
        return eth.NOT_A_REQUEST if message.op == arp.REPLY else eth.NOT_OWNED

    def answer_ndp(self, frame: bytes) -> bytes | None:
        """The advertisement that answers a neighbor solicitation, or None. Never raises."""
        reason = self._answer_ndp(frame)
        if isinstance(reason, bytes):
            return reason
        self.drops[reason] += 1
        return None

    def _answer_ndp(self, frame: bytes) -> bytes | str:
        answer = self.ndp.get(frame[62:78])
        if answer is None:
            return self._ndp_refusal(frame)
        if frame[18:22] == b"\x00\x20\x3a\xff" and frame[54:56] == b"\x87\x00" and frame[78:80] == b"\x01\x01":
            # 24 octets and one source link-layer option, as nearly every host asks: checked here, in one pass.
            if (
                len(frame) < 86
                or frame[12:14] != b"\x86\xdd"
                or frame[14] >> 4 != 6
                or (int.from_bytes(frame[22:86], "big") + 0x20 + ndp.ICMPV6) % 65535
                or frame[22] == 0xFF
                or frame[22:38] == ndp.UNSPECIFIED
            ):
                return self._ndp_refusal(frame)
            dst, source = frame[80:86], frame[22:38]
        else:
            try:
                message = ndp.decode(frame)
            except eth.DecodeError as error:
                return error.reason
            if message.kind != ndp.SOLICITATION:
                return self._ndp_refusal(frame)
            dst, source = message.link_layer or message.src, message.source
        if frame[6:12] == self.mac or dst == self.mac:
            return eth.OWN_FRAME
        if not frame[0] & 1 and frame[:6] != self.mac:
            return eth.NOT_FOR_US
        if dst[0] & 1 or dst == eth.ZERO_MAC:
            return eth.BAD_SENDER
        answer.received += 1
        if not answer.active:
            return eth.CHECKING
        answer.sent += 1
        return answer.dad_reply() if source == ndp.UNSPECIFIED else answer.reply(dst, source)

    def _ndp_refusal(self, frame: bytes) -> str:
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
        if message.kind == ndp.SOLICITATION:
            return eth.NOT_OWNED
        if message.target in self.ndp:
            if self._heard is not None:
                gratuitous = message.destination[0] == 0xFF and bool(message.flags & ndp.OVERRIDE)
                self._heard(Heard(message.target, mac, gratuitous))
            return eth.FOREIGN_CLAIM
        return eth.NOT_A_REQUEST

    def unsent(self, reply: bytes) -> None:
        """The kernel did not take this reply: it does not count as sent."""
        answer = self.get(reply[28:32] if reply[12:14] == b"\x08\x06" else reply[22:38])
        if answer is not None:
            answer.sent -= 1
        self.drops[eth.SEND_FAILED] += 1

    def answer(self, frame: bytes) -> bytes | None:
        """The answer to a frame of either protocol; for callers that have not told them apart."""
        return self.answer_ndp(frame) if frame[12:14] == b"\x86\xdd" else self.answer_arp(frame)
