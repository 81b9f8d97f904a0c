"""Asks ARP and NDP for addresses over and over, and notes who answers: a program for a host's network namespace.

``asker.py INTERFACE MAC IPV4 EVERY REST ADDRESS...``: asks for the first address of either family every EVERY seconds
and for all others every REST seconds, by broadcast or multicast, as a host does that has never heard of them. MAC and
IPV4 are the asking host's own. The host's kernel takes no part, but for ICMPv6 checksums: it caches nothing.

A line on standard input asks for a report: one JSON object on one line, ``{"asked": [[time, address], ...], "heard":
[[time, address, MAC, kind], ...]}`` since the last report, address as an index into the arguments, times by the
monotonic clock, kind ``answer`` or ``announcement`` (not asked for). End of input ends the program.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time

ETH_P_ARP = 0x0806
ICMP6_FILTER = 1
SOLICITATION, ADVERTISEMENT = 135, 136
SOLICITED = 0x40000000  # RFC 4861 section 4.4
BROADCAST = b"\xff" * 6


class Asker:
    """Both sockets, and all that was asked and heard since the last report."""

    def __init__(self, interface: str, mac: bytes, ipv4: bytes, addresses: list[str]) -> None:
        self._mac, self._ipv4 = mac, ipv4
        self.asked: list[tuple[float, int]] = []
        self.heard: list[tuple[float, int, str, str]] = []
        self._packed = [socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in addresses]
        self._index = {packed: number for number, packed in enumerate(self._packed)}
        self.arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        self.arp.bind((interface, ETH_P_ARP))
        self._arp_heads = {
            packed: BROADCAST + mac + struct.pack("!HHHBBH", ETH_P_ARP, 1, 0x0800, 6, 4, 1) + mac + ipv4 + bytes(6)
            for packed in self._packed
        }
        self._scope = socket.if_nametoindex(interface)
        self.ndp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        wanted = bytearray(b"\xff" * 32)  # RFC 3542 section 3.2: a set bit is a type that is not passed
        wanted[ADVERTISEMENT // 8] &= ~(1 << ADVERTISEMENT % 8) & 0xFF
        self.ndp.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, bytes(_host_order(wanted)))
        self.ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        self.ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._scope)
        for sock in (self.arp, self.ndp):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def ask(self, number: int) -> None:
        """One question."""
        packed = self._packed[number]
        try:
            if len(packed) == 4:
                self.asked.append((time.monotonic(), number))
                self.arp.send(self._arp_heads[packed] + packed)
            else:
                group = "ff02::1:ff" + packed[13:14].hex() + ":" + packed[14:].hex()
                message = struct.pack("!BBHI", SOLICITATION, 0, 0, 0) + packed + b"\x01\x01" + self._mac
                self.asked.append((time.monotonic(), number))
                self.ndp.sendto(message, (group, 0, 0, self._scope))
        except OSError:  # the interface is down: nobody can answer this one
            return

    def hear_arp(self) -> None:
        """Replies for our addresses; and requests that name one as the sender's own, which announce it."""
        while True:
            try:
                frame = self.arp.recv(128)
            except BlockingIOError:
                return
            if len(frame) < 42 or frame[12:14] != b"\x08\x06":
                continue
            number = self._index.get(frame[28:32])
            if number is not None and frame[22:28] != self._mac:
                reply = frame[20:22] == b"\0\2" and frame[:6] == self._mac
                self._note(number, frame[22:28], "answer" if reply else "announcement")

    def hear_ndp(self) -> None:
        """Advertisements for our addresses."""
        while True:
            try:
                message = self.ndp.recv(512)
            except BlockingIOError:
                return
            if len(message) < 24 or message[0] != ADVERTISEMENT:
                continue
            number = self._index.get(message[8:24])
            option = message[24:]
            if number is not None and len(option) >= 8 and option[:2] == b"\x02\x01":
                (flags,) = struct.unpack("!I", message[4:8])
                self._note(number, option[2:8], "answer" if flags & SOLICITED else "announcement")

    def _note(self, number: int, mac: bytes, kind: str) -> None:
        self.heard.append((time.monotonic(), number, mac.hex(":"), kind))

    def report(self) -> str:
        """What was asked and heard since the last one."""
        text = json.dumps({"asked": self.asked, "heard": self.heard})
        self.asked, self.heard = [], []
        return text


def _host_order(octets: bytearray) -> bytes:
    """The filter is eight 32-bit words in the machine's order, bit N of word M for type 32 M + N."""
    words = [0] * 8
    for kind in range(256):
        if octets[kind // 8] >> kind % 8 & 1:
            words[kind // 32] |= 1 << kind % 32
    return struct.pack("=8I", *words)


def main(interface: str, mac: str, ipv4: str, every: float, rest: float, addresses: list[str]) -> None:
    asker = Asker(interface, bytes.fromhex(mac.replace(":", "")), socket.inet_aton(ipv4), addresses)
    first = {":" in address: number for number, address in reversed(list(enumerate(addresses)))}
    start = time.monotonic()
    # Spread over the interval, so that questions do not come in bursts.
    intervals = [every if number in first.values() else rest for number in range(len(addresses))]
    due = [start + interval * (number + 1) / len(addresses) for number, interval in enumerate(intervals)]
    with selectors.DefaultSelector() as selector:
        selector.register(asker.arp, selectors.EVENT_READ, asker.hear_arp)
        selector.register(asker.ndp, selectors.EVENT_READ, asker.hear_ndp)
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select(max(0.0, min(due) - time.monotonic())):
                if key.data is not None:
                    key.data()
                elif not sys.stdin.buffer.readline():
                    return
                else:
                    print(asker.report(), flush=True)
            now = time.monotonic()
            for number, interval in enumerate(intervals):
                if now >= due[number]:
                    asker.ask(number)
                    due[number] = max(due[number] + interval, now)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5]), sys.argv[6:])
