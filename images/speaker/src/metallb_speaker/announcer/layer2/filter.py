"""Kernel filters: programs that let through only what concerns the addresses known now.

ARP: requests for one of them, and replies whose sender claims one of them. NDP: solicitations and
advertisements whose target is one of them. Nothing that is tagged for another VLAN, sent by ourselves,
addressed to another host, or received through another interface. No address: everything is dropped.

Exact while it fits `limit` instructions; else a covering superset, whose surplus the responder refuses.
`FilterPlan` says when which program is due: a large exact one takes milliseconds to build, so it is made in steps,
and while addresses come and go by the hundred a small superset stands in for it.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

#: Addresses handled in one step: a few tenths of a millisecond.
STEP: Final = 800

Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Exact:
    """A program, and at most COVER intervals of the last 32 bits that hold all that it lets through."""

    program: Block
    cover: list[Interval]


def arp_program(addresses: Iterable[bytes], ifindex: int, limit: int = bpf.MAX_INSTRUCTIONS) -> Block:
    """For a socket bound to ETH_P_ARP on `ifindex`. `addresses` are 4 octets each."""
    return _last(exact_slices(sorted(set(addresses)), 4, ifindex, limit))


def ndp_program(addresses: Iterable[bytes], ifindex: int, limit: int = bpf.MAX_INSTRUCTIONS) -> Block:
    """For a socket bound to ETH_P_IPV6 on `ifindex`. `addresses` are 16 octets each."""
    return _last(exact_slices(sorted(set(addresses)), 16, ifindex, limit))


def exact_slices(addresses: Sequence[bytes], width: int, ifindex: int, limit: int) -> Iterator[Exact | None]:
    """The program for these (sorted, of `width` octets) in steps of a fraction of a millisecond; the last one gives it.

    Exact if it fits `limit` instructions, else over a superset of the addresses.
    """
    if not addresses:
        yield Exact(list(bpf.DROP), [])
        return
    groups: list[tuple[bytes, list[Interval]]] = []  # IPv6: the upper 96 bits, and intervals of the lower 32
    for start in range(0, len(addresses), STEP):
        _join(groups, addresses[start : start + STEP])
        yield None
    body: Block = []
    if width == 4:
        room = limit - len(_arp_head(bpf.DROP)) - len(_guard(ifindex, []))
        for _ in _search_slices(body, groups[0][1], room):
            yield None
        program = _guard(ifindex, _arp_head(body))
    else:
        room = limit - len(_ndp_head(_guard(ifindex, [])))
        for _ in _prefix_slices(body, groups, room):
            yield None
        if not body:
            # Too many: look at the last 32 bits alone, whatever the prefix.
            body.append((bpf.LD_W, 0, 0, 74))
            for _ in _search_slices(body, _merged(groups), room - 1):
                yield None
        program = _ndp_head(_guard(ifindex, body))
    yield None
    merged, cover = _merged(groups), list[Interval]()
    if len(merged) > COVER:
        for _ in _widen_slices(cover, merged, COVER):
            yield None
    yield Exact(program, cover or merged)


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
        self._known: list[bytes] = []  # sorted
        self._cover: list[Interval] = []  # intervals of the last 32 bits that hold all that is known
        self._loose: float | None = None  # since when the superset over `_cover` stands in
        self._due = math.inf
        self._work: Iterator[Exact | None] | None = None  # the exact program in the making
        self._outdated = False  # something was removed meanwhile

    def add(self, ip: bytes, now: float) -> None:
        at = bisect.bisect_left(self._known, ip)
        if at < len(self._known) and self._known[at] == ip:
            return
        self._known.insert(at, ip)
        if self._work is not None:  # for want of this address it is worthless
            self._work = None
            self._loose = None if self._loose is None else now
        wider = self._include(int.from_bytes(ip[-4:], "big"))
        if len(self._known) <= SMALL:
            self._due = now
            return
        if wider or self._loose is None:
            self._loose = now if self._loose is None else self._loose
            self._due = -math.inf  # the small one, at once
        elif self._due > -math.inf:
            self._due = min(now + CALM, self._loose + PATIENCE)

    def remove(self, ip: bytes, now: float) -> None:
        at = bisect.bisect_left(self._known, ip)
        if at < len(self._known) and self._known[at] == ip:
            del self._known[at]
            self._outdated = True
            if self._due > now:
                self._due = now if len(self._known) <= SMALL else min(self._due, now + CALM)

    def deadline(self) -> float:
        """When `program` is due; infinity if what is loaded is exact."""
        return self._due if self._work is None else -math.inf

    def program(self, now: float) -> Block | None:
        """The program to load now, or None. An exact one of many addresses comes after some calls more."""
        if self._work is None:
            if self._due > now:
                return None
            if self._due == -math.inf and self._loose is not None and now < self._loose + PATIENCE:
                self._due = min(now + CALM, self._loose + PATIENCE)
                return cover_program(self._cover, self._ifindex, self._width)
            self._work, self._outdated = exact_slices(self._known[:], self._width, self._ifindex, self.limit), False
            if len(self._known) > SMALL:
                return None
        while (made := next(self._work)) is None:
            if len(self._known) > SMALL:
                return None
        self._work = None
        self._due, self._loose = now + CALM if self._outdated else math.inf, None
        self._cover = made.cover
        return made.program

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


def _last(steps: Iterator[Exact | None]) -> Block:
    *_, made = steps
    return made.program if made is not None else []


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


def _join(groups: list[tuple[bytes, list[Interval]]], addresses: Sequence[bytes]) -> None:
    """Add sorted addresses to the intervals by prefix; neighbours are joined."""
    prefix, intervals = groups[-1] if groups else (None, [])
    first, last = intervals.pop() if intervals else (-2, -2)
    for ip in addresses:
        value = int.from_bytes(ip[-4:], "big")
        if value == last + 1 and ip[:-4] == prefix:
            last = value
            continue
        if last >= 0:
            intervals.append((first, last))
        if ip[:-4] != prefix:
            prefix, intervals = ip[:-4], []
            groups.append((prefix, intervals))
        first = last = value
    intervals.append((first, last))


def _merged(groups: Sequence[tuple[bytes, list[Interval]]]) -> list[Interval]:
    """The intervals of all prefixes together: sorted, disjoint, neighbours joined."""
    if len(groups) == 1:
        return groups[0][1]
    out: list[Interval] = []
    for first, last in sorted(itertools.chain.from_iterable(intervals for _, intervals in groups)):
        if out and first <= out[-1][1] + 1:
            out[-1] = out[-1][0], max(last, out[-1][1])
        else:
            out.append((first, last))
    return out


def _wide(intervals: Sequence[Interval]) -> int:
    return sum([first != last for first, last in intervals])


def _search_slices(out: Block, intervals: Sequence[Interval], room: int) -> Iterator[None]:
    """The exact search if it fits `room`, else over fewer, wider intervals: the widest gaps are kept."""
    count, wide = len(intervals), _wide(intervals)
    for leaf in LEAVES:
        if bpf.size(count, wide, leaf) <= room:
            yield from bpf.search_slices(out, intervals, SNAP, leaf)
            return
    keep = min(count - 1, room // 2)
    while keep > 0 and (excess := bpf.size(keep, keep, LEAVES[-1]) - room) > 0:
        keep -= max(1, excess // 2)
    if keep < 1:
        out.append((bpf.RET, 0, 0, SNAP))
        return
    wider: list[Interval] = []
    yield from _widen_slices(wider, intervals, keep)
    yield from bpf.search_slices(out, wider, SNAP, LEAVES[-1])


def _widen_slices(out: list[Interval], intervals: Sequence[Interval], keep: int) -> Iterator[None]:
    """At most `keep` intervals that cover all of them, appended to `out`: joined over the narrowest gaps."""
    gaps = [right[0] - left[1] for left, right in itertools.pairwise(intervals)]
    yield
    least: float = sorted(gaps)[1 - keep] if keep > 1 else math.inf
    yield
    spare = keep - 1 - sum([gap > least for gap in gaps])  # of those that are as wide as the narrowest kept one
    first = intervals[0][0]
    for at, gap in enumerate(gaps):
        if gap > least or (gap == least and spare > 0):
            spare -= gap == least
            out.append((first, intervals[at][1]))
            first = intervals[at + 1][0]
        if at % STEP == 0:
            yield
    out.append((first, intervals[-1][1]))


def _prefix_slices(out: Block, groups: Sequence[tuple[bytes, list[Interval]]], room: int) -> Iterator[None]:
    """Search among the upper 96 bits, then among the lower 32; nothing if that does not fit `room`."""
    sizes = [(len(intervals), _wide(intervals)) for _, intervals in groups]
    for leaf in LEAVES:
        if sum(bpf.size(count, wide, leaf) for count, wide in sizes) + 8 > room:
            continue
        blocks = []
        for prefix, intervals in groups:
            block: Block = []
            yield from bpf.search_slices(block, intervals, SNAP, leaf)
            blocks.append((prefix, block))
        body = _prefixes(blocks)
        if len(body) <= room:
            out += body
            return
        yield


def _prefixes(groups: Sequence[tuple[bytes, Block]], word: int = 0) -> Block:
    """Search word by word through the 96 upper bits, then the group's block; groups are sorted by prefix."""
    load = (bpf.LD_W, 0, 0, 62 + 4 * word)
    if word == 3:
        return [load, *groups[0][1]]
    children: list[tuple[int, Block]] = []
    start = 0
    for at in range(1, len(groups) + 1):
        value = groups[start][0][4 * word : 4 * word + 4]
        if at == len(groups) or groups[at][0][4 * word : 4 * word + 4] != value:
            children.append((int.from_bytes(value, "big"), _prefixes(groups[start:at], word + 1)))
            start = at
    return [load, *_choose(children)]


def _choose(children: Sequence[tuple[int, Block]]) -> Block:
    """The block of the child whose value is in the accumulator."""
    if len(children) == 1:
        return bpf.require(bpf.JEQ, children[0][0], children[0][1])
    middle = len(children) // 2
    return bpf.branch(bpf.JGE, children[middle][0], _choose(children[:middle]), _choose(children[middle:]))
