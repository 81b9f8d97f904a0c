"""Kernel filters: programs that let through only what concerns the addresses known now.

ARP: requests for one of them, and replies whose sender claims one of them. NDP: solicitations and
advertisements whose target is one of them. Nothing that is tagged for another VLAN, sent by ourselves,
addressed to another host, or received through another interface. No address: everything is dropped.

Exact while it fits `limit` instructions; else a covering superset, whose surplus the responder refuses.
`FilterPlan` says when which program is due: a large exact one takes a millisecond to build and load, so
while addresses come and go by the hundred a small superset stands in for it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

from metallb_speaker.announcer.layer2 import bpf
from metallb_speaker.announcer.layer2.bpf import Block

#: Octets of a frame that are handed up. ARP needs 42; a solicitation with options stays far below 1,500.
SNAP: Final = 2048
#: Tests tried one by one at the end of a search: more of them is slower and smaller. 2 * 120 stays in reach of a jump.
LEAVES: Final = (4, 16, 60, 120)

#: Up to this many addresses, every change is followed by the exact program at once: that takes 0.2 ms.
SMALL: Final = 128
#: A superset of at most this many intervals stands in for a larger one, until nothing has changed for CALM seconds.
COVER: Final = 48
CALM: Final = 0.3
PATIENCE: Final = 2.0  # seconds for which changes can keep the exact one away

Interval = tuple[int, int]


def arp_program(addresses: Iterable[bytes], ifindex: int, limit: int = bpf.MAX_INSTRUCTIONS) -> Block:
    """For a socket bound to ETH_P_ARP on `ifindex`. `addresses` are 4 octets each."""
    wanted = _intervals(int.from_bytes(ip, "big") for ip in addresses)
    if not wanted:
        return list(bpf.DROP)
    room = limit - len(_arp_head(bpf.DROP)) - len(_guard(ifindex, []))
    return _guard(ifindex, _arp_head(_search(wanted, room)))


def ndp_program(addresses: Iterable[bytes], ifindex: int, limit: int = bpf.MAX_INSTRUCTIONS) -> Block:
    """For a socket bound to ETH_P_IPV6 on `ifindex`. `addresses` are 16 octets each."""
    known = sorted(set(addresses))
    if not known:
        return list(bpf.DROP)
    room = limit - len(_ndp_head(_guard(ifindex, [])))
    prefixes: dict[bytes, list[int]] = {}
    for ip in known:
        prefixes.setdefault(ip[:12], []).append(int.from_bytes(ip[12:], "big"))
    for leaf in LEAVES:
        body = _prefixes([(prefix, _intervals(low)) for prefix, low in prefixes.items()], leaf)
        if len(body) <= room:
            break
    else:
        # Too many: look at the last 32 bits alone, whatever the prefix.
        low = _intervals(int.from_bytes(ip[12:], "big") for ip in known)
        body = [(bpf.LD_W, 0, 0, 74), *_search(low, room - 1)]
    return _ndp_head(_guard(ifindex, body))


def cover_program(cover: Sequence[Interval], ifindex: int, width: int) -> Block:
    """For few intervals of addresses' last 32 bits; `width` is the length of an address, 4 or 16."""
    if width == 4:
        return _guard(ifindex, _arp_head(bpf.search(cover, SNAP, LEAVES[0])))
    return _ndp_head(_guard(ifindex, [(bpf.LD_W, 0, 0, 74), *bpf.search(cover, SNAP, LEAVES[0])]))


class FilterPlan:
    """Which program one socket needs now. `width` is the length of its addresses, 4 or 16.

    After any `add`, `program` must be loaded before frames of the new address are expected; after a
    `remove` there is no hurry. `limit` is lowered by the edge where the kernel takes less.
    """

    def __init__(self, ifindex: int, width: int) -> None:
        self.limit = bpf.MAX_INSTRUCTIONS
        self._ifindex = ifindex
        self._width = width
        self._known: set[bytes] = set()
        self._cover: list[Interval] = []  # intervals of the last 32 bits that hold all that is known
        self._loose: float | None = None  # since when the superset over `_cover` stands in
        self._due = math.inf

    def add(self, ip: bytes, now: float) -> None:
        if ip in self._known:
            return
        self._known.add(ip)
        if len(self._known) <= SMALL:
            self._due = now
            return
        if self._include(int.from_bytes(ip[-4:], "big")) or self._loose is None:
            self._loose = now if self._loose is None else self._loose
            self._due = -math.inf  # the small one, at once
        elif self._due > -math.inf:
            self._due = min(now + CALM, self._loose + PATIENCE)

    def remove(self, ip: bytes, now: float) -> None:
        if ip in self._known:
            self._known.discard(ip)
            if self._due > now:
                self._due = now if len(self._known) <= SMALL else min(self._due, now + CALM)

    def deadline(self) -> float:
        """When `program` is due; infinity if what is loaded is exact."""
        return self._due

    def program(self, now: float) -> Block | None:
        """The program to load now, or None."""
        if self._due > now:
            return None
        if self._due == -math.inf and self._loose is not None and now < self._loose + PATIENCE:
            self._due = min(now + CALM, self._loose + PATIENCE)
            return cover_program(self._cover, self._ifindex, self._width)
        self._due, self._loose = math.inf, None
        intervals = _intervals(int.from_bytes(ip[-4:], "big") for ip in self._known)
        self._cover = intervals if len(intervals) <= COVER else _widen(intervals, COVER)
        return (arp_program if self._width == 4 else ndp_program)(self._known, self._ifindex, self.limit)

    def _include(self, value: int) -> bool:
        """Widen the cover to hold `value`; False if it did."""
        cover = self._cover
        at = bisect.bisect_right(cover, (value, 1 << 32))
        if at and cover[at - 1][1] >= value:
            return False
        if len(cover) < COVER:
            cover.insert(at, (value, value))
        elif at == len(cover) or (at and value - cover[at - 1][1] < cover[at][0] - value):
            cover[at - 1] = (cover[at - 1][0], value)  # the neighbours cannot meet: `value` is between them
        else:
            cover[at] = (value, cover[at][1])
        return True

    def refused(self, length: int, now: float) -> bool:
        """The kernel has not enough option memory for a program of this length: try a smaller one, if there is one."""
        if self.limit <= 64:
            return False
        self.limit = max(64, min(self.limit, length) // 2)
        self._due = now
        return True


def _guard(ifindex: int, then: Block) -> Block:
    """What no octet of the frame tells.

    A frame that came in tagged is offered to the untagged interface's sockets, too: as OTHERHOST, or
    with the VLAN interface's index. Tag 0 is only a priority, and the frame is the interface's own.
    """
    tagged: Block = [(bpf.LD_W, 0, 0, bpf.AD_VLAN_TAG), (bpf.JSET, 0, 1, 0xFFF), *bpf.DROP]
    return [
        (bpf.LD_W, 0, 0, bpf.AD_PKTTYPE),
        (bpf.JGE, 0, 1, bpf.PACKET_OTHERHOST),
        *bpf.DROP,
        (bpf.LD_W, 0, 0, bpf.AD_IFINDEX),
        (bpf.JEQ, 1, 0, ifindex),
        *bpf.DROP,
        (bpf.LD_W, 0, 0, bpf.AD_VLAN_TAG_PRESENT),
        (bpf.JEQ, len(tagged), 0, 0),
        *tagged,
        *then,
    ]


def _arp_head(then: Block) -> Block:
    """Ethernet and IPv4, request or reply; then the target or the sender address in the accumulator."""
    return [
        (bpf.LD_W, 0, 0, 14),
        *bpf.require(bpf.JEQ, 0x00010800, []),
        (bpf.LD_H, 0, 0, 18),
        *bpf.require(bpf.JEQ, 0x0604, []),
        (bpf.LD_H, 0, 0, 20),
        (bpf.JEQ, 2, 0, 1),
        (bpf.JEQ, 3, 0, 2),
        *bpf.DROP,
        (bpf.LD_W, 0, 0, 38),
        (bpf.JA, 0, 0, 1),
        (bpf.LD_W, 0, 0, 28),
        *then,
    ]


def _ndp_head(then: Block) -> Block:
    """ICMPv6 right after the fixed header, hop limit 255, code 0, solicitation or advertisement.

    First of all, for it is asked of every IPv6 packet of the interface, the traffic of users included.
    """
    return [
        (bpf.LD_H, 0, 0, 20),
        *bpf.require(bpf.JEQ, 58 << 8 | 255, []),
        (bpf.LD_H, 0, 0, 54),
        (bpf.JEQ, 2, 0, 135 << 8),
        (bpf.JEQ, 1, 0, 136 << 8),
        *bpf.DROP,
        *then,
    ]


def _intervals(values: Iterable[int]) -> list[Interval]:
    """Sorted, disjoint, neighbours joined."""
    out: list[Interval] = []
    first = last = -2
    for value in sorted(values):
        if value <= last + 1:
            last = value
        else:
            if last >= 0:
                out.append((first, last))
            first = last = value
    if last >= 0:
        out.append((first, last))
    return out


def _search(intervals: Sequence[Interval], room: int) -> Block:
    """The exact search if it fits `room`, else over fewer, wider intervals: the widest gaps are kept."""
    for leaf in LEAVES:
        if bpf.size(intervals, leaf) <= room:
            return bpf.search(intervals, SNAP, leaf)
    keep = len(intervals)
    while keep > 1:
        keep = keep * 3 // 4
        wider = _widen(intervals, keep)
        if bpf.size(wider, LEAVES[-1]) <= room:
            return bpf.search(wider, SNAP, LEAVES[-1])
    return [(bpf.RET, 0, 0, SNAP)]


def _widen(intervals: Sequence[Interval], keep: int) -> list[Interval]:
    """At most `keep` intervals that cover all of them: joined over the narrowest gaps."""
    gaps = sorted(range(1, len(intervals)), key=lambda i: intervals[i - 1][1] - intervals[i][0])
    cuts = [0, *sorted(gaps[: keep - 1]), len(intervals)]
    return [(intervals[a][0], intervals[b - 1][1]) for a, b in itertools.pairwise(cuts)]


def _prefixes(groups: Sequence[tuple[bytes, list[Interval]]], leaf: int, word: int = 0) -> Block:
    """Search word by word through the 96 upper bits, then among the lower 32; groups are sorted by prefix."""
    load = (bpf.LD_W, 0, 0, 62 + 4 * word)
    if word == 3:
        return [load, *bpf.search(groups[0][1], SNAP, leaf)]
    children: list[tuple[int, Block]] = []
    start = 0
    for at in range(1, len(groups) + 1):
        value = groups[start][0][4 * word : 4 * word + 4]
        if at == len(groups) or groups[at][0][4 * word : 4 * word + 4] != value:
            children.append((int.from_bytes(value, "big"), _prefixes(groups[start:at], leaf, word + 1)))
            start = at
    return [load, *_choose(children)]


def _choose(children: Sequence[tuple[int, Block]]) -> Block:
    """The block of the child whose value is in the accumulator."""
    if len(children) == 1:
        return bpf.require(bpf.JEQ, children[0][0], children[0][1])
    middle = len(children) // 2
    return bpf.branch(bpf.JGE, children[middle][0], _choose(children[:middle]), _choose(children[middle:]))
