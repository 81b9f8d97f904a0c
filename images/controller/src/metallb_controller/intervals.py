"""A set of integers as disjoint intervals, with the lowest member at hand.

The cost of every operation is O(log n) in the number of intervals, never in the size of the set: an
IPv6 /64 with one address taken is two intervals.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

#: Starts per chunk. A chunk is split at twice this: moving 8 KiB costs less than the search does.
CHUNK = 512


class IntervalSet:
    """Mutable. Starts are kept in sorted chunks, so that no insertion moves more than one chunk."""

    __slots__ = ("_chunks", "_end", "_heads", "size")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """From closed intervals in ascending order, disjoint. O(n)."""
        pairs = list(intervals)
        starts = [first for first, _ in pairs]
        self._end = dict(pairs)
        self._chunks = [starts[i : i + CHUNK] for i in range(0, len(starts), CHUNK)]
        self._heads = [chunk[0] for chunk in self._chunks]
        self.size = sum(last - first + 1 for first, last in pairs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for chunk in self._chunks:
            for start in chunk:
                yield start, self._end[start]

    def lowest(self) -> int | None:
        return self._heads[0] if self._heads else None

    def _at_or_below(self, value: int) -> int | None:
        """The greatest start that is <= value."""
        c = bisect_right(self._heads, value) - 1
        if c < 0:
            return None
        chunk = self._chunks[c]
        return chunk[bisect_right(chunk, value) - 1]

    def __contains__(self, value: int) -> bool:
        start = self._at_or_below(value)
        return start is not None and value <= self._end[start]

    def discard(self, value: int) -> bool:
        """Take one member out; whether it was one."""
        start = self._at_or_below(value)
        if start is None or value > self._end[start]:
            return False
        end = self._end[start]
        self.size -= 1
        if value == start:
            self._remove(start)
        else:
            self._end[start] = value - 1
        if value < end:
            self._insert(value + 1, end)
        return True

    def add(self, value: int) -> bool:
        """Put one member in, joined with its neighbours; whether it was not one already."""
        before = self._at_or_below(value)
        if before is not None and value <= self._end[before]:
            return False
        self.size += 1
        end = value
        if value + 1 in self._end:
            end = self._end[value + 1]
            self._remove(value + 1)
        if before is not None and self._end[before] == value - 1:
            self._end[before] = end
        else:
            self._insert(value, end)
        return True

    def _insert(self, start: int, end: int) -> None:
        self._end[start] = end
        c = max(0, bisect_right(self._heads, start) - 1)
        if not self._chunks:
            self._chunks.append([start])
            self._heads.append(start)
            return
        chunk = self._chunks[c]
        chunk.insert(bisect_right(chunk, start), start)
        self._heads[c] = chunk[0]
        if len(chunk) > 2 * CHUNK:
            self._chunks[c : c + 1] = [chunk[:CHUNK], chunk[CHUNK:]]
            self._heads.insert(c + 1, chunk[CHUNK])

    def _remove(self, start: int) -> None:
        del self._end[start]
        c = bisect_right(self._heads, start) - 1
        chunk = self._chunks[c]
        del chunk[bisect_right(chunk, start) - 1]
        if chunk:
            self._heads[c] = chunk[0]
        else:
            del self._chunks[c], self._heads[c]


def subtract(wanted: Iterable[tuple[int, int]], holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """`wanted` without `holes`; both ascending and disjoint, and so is the result. O(n + m)."""
    out: list[tuple[int, int]] = []
    pending = list(holes)
    i = 0
    for first, last in wanted:
        while i < len(pending) and pending[i][1] < first:
            i += 1
        j = i
        while j < len(pending) and pending[j][0] <= last:
            if pending[j][0] > first:
                out.append((first, pending[j][0] - 1))
            first = max(first, pending[j][1] + 1)
            j += 1
        if first <= last:
            out.append((first, last))
    return out
