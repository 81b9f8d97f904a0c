"""Classic BPF: the instructions used here, and blocks that search a value in the accumulator.

A program is a list of instructions (code, jt, jf, k), as `struct sock_filter`. Every block ends in a
return on each of its paths, so blocks are put together without fixing jumps up. A conditional jump
reaches 255 instructions; beyond that it hops over an unconditional one.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Final

Instruction = tuple[int, int, int, int]
Block = list[Instruction]

LD_W: Final = 0x20  # A = 4 octets at k
LD_H: Final = 0x28
LD_B: Final = 0x30
JA: Final = 0x05
JEQ: Final = 0x15
JGT: Final = 0x25
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06

# Ancillary loads: what the kernel knows of a frame beside its octets (linux/filter.h).
AD_OFF: Final = 0xFFFFF000
AD_PKTTYPE: Final = AD_OFF + 4
AD_IFINDEX: Final = AD_OFF + 8
AD_VLAN_TAG: Final = AD_OFF + 44
AD_VLAN_TAG_PRESENT: Final = AD_OFF + 48
#: HOST 0, BROADCAST 1, MULTICAST 2; then OTHERHOST and OUTGOING, which are not for us.
PACKET_OTHERHOST: Final = 3

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
DROP: Final[Block] = [(RET, 0, 0, 0)]

_PACK = struct.Struct("=HBBI").pack


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as an array of `struct sock_filter` in host order."""
    return b"".join([_PACK(*instruction) for instruction in program])


def require(code: int, value: int, then: Block) -> Block:
    """`then` if the test of the accumulator against `value` holds, else drop."""
    return [(code, 1, 0, value), *DROP, *then]


def refuse(code: int, value: int, then: Block) -> Block:
    """Drop if the test holds, else `then`."""
    return [(code, 0, 1, value), *DROP, *then]


def branch(code: int, value: int, left: Block, right: Block) -> Block:
    """`right` if the test holds, else `left`."""
    if len(left) <= 255:
        return [(code, len(left), 0, value), *left, *right]
    return [(code, 0, 1, value), (JA, 0, 0, len(left)), *left, *right]


def search(intervals: Sequence[tuple[int, int]], accept: int, leaf: int) -> Block:
    """Accept (return `accept`) if the accumulator is in one of the closed, sorted, disjoint intervals.

    Binary search down to `leaf` intervals, which are then tried one by one: a larger leaf is a smaller program.
    """
    out: Block = []
    for _ in search_slices(out, intervals, accept, leaf):
        pass
    return out


def search_slices(out: Block, intervals: Sequence[tuple[int, int]], accept: int, leaf: int) -> Iterator[None]:
    """`search`, appended to `out` in steps of about a tenth of a millisecond."""
    yield from _emit(out, intervals, 0, len(intervals), accept, leaf)


def _emit(
    out: Block, intervals: Sequence[tuple[int, int]], low: int, high: int, accept: int, leaf: int
) -> Iterator[None]:
    if high - low <= leaf:
        out += _leaf(intervals[low:high], accept)
        return
    middle = (low + high) // 2
    at, far = len(out), _is_far(middle - low)
    out += DROP * (2 if far else 1)  # filled in when the left side's length is known
    yield from _emit(out, intervals, low, middle, accept, leaf)
    left = len(out) - at - (2 if far else 1)
    if far:
        out[at : at + 2] = [(JGE, 0, 1, intervals[middle][0]), (JA, 0, 0, left)]
    else:
        out[at] = (JGE, left, 0, intervals[middle][0])
    yield from _emit(out, intervals, middle, high, accept, leaf)
    if high - low > 64:
        yield


def _is_far(count: int) -> bool:
    """Whether a search of `count` intervals may be beyond a jump: at most two tests, two returns and a branch each."""
    return count * 5 > 255


def _leaf(intervals: Sequence[tuple[int, int]], accept: int) -> Block:
    """One test for a single value, two for an interval; the last two instructions are drop and accept."""
    length = sum(1 if first == last else 2 for first, last in intervals)
    out: Block = []
    for first, last in intervals:
        left = length - len(out) - 1  # tests that follow this one
        if first == last:
            out.append((JEQ, left + 1, 0, first))
        else:
            out.append((JGE, 0, left, first))  # below this one: below all that follow
            out.append((JGT, 0, left, last))
    return [*out, (RET, 0, 0, 0), (RET, 0, 0, accept)]


def size(count: int, wide: int, leaf: int) -> int:
    """How long `search` will be over `count` intervals, `wide` of which are of more than one value."""
    return count + wide + _overhead(count, leaf)


@functools.lru_cache(maxsize=4096)
def _overhead(count: int, leaf: int) -> int:
    """Branches and returns of a search over `count` intervals."""
    if count <= leaf:
        return 2
    left = count // 2
    return _overhead(left, leaf) + _overhead(count - left, leaf) + (2 if _is_far(left) else 1)
