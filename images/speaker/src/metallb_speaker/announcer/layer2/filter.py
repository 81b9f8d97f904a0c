"""Kernel filters: programs that let through only what concerns the addresses known now.

ARP: requests for one of them, and replies whose sender claims one of them. NDP: solicitations and
advertisements whose target is one of them. Nothing that is tagged for another VLAN, sent by ourselves,
addressed to another host, or received through another interface. No address: everything is dropped.

Exact while it fits `limit` instructions; else a covering superset, whose surplus the responder refuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from metallb_speaker.announcer.layer2 import bpf
from metallb_speaker.announcer.layer2.bpf import Block

#: Octets of a frame that are handed up. ARP needs 42; a solicitation with options stays far below 1,500.
SNAP: Final = 2048
#: Tests tried one by one at the end of a search: more of them is slower and smaller. 2 * 120 stays in reach of a jump.
LEAVES: Final = (4, 16, 60, 120)

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
    room = limit - len(_ndp_head([])) - len(_guard(ifindex, []))
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
    return _guard(ifindex, _ndp_head(body))


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
    """ICMPv6 right after the fixed header, hop limit 255, code 0, solicitation or advertisement."""
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
