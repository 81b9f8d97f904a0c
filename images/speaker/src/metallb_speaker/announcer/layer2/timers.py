"""Deadlines by key: a heap with lazy deletion, so that thousands of addresses cost nothing while idle.

Deadlines that were cancelled or moved by the thousand, and come due at once, are thrown away some per call.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

#: Entries of the heap that one call throws away at most.
PRUNED: Final = 48
#: Below this many entries (two megabytes) a heap is never cleared of the dead in one go: that takes a millisecond.
MANY: Final = 20_000

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """At most one deadline per key. Equal deadlines come due in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, tuple[float, int]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: K, due: float) -> None:
        """Set or move the deadline of `key`."""
        self._serial += 1
        self._due[key] = (due, self._serial)
        heapq.heappush(self._heap, (due, self._serial, key))
        if len(self._heap) > MANY and len(self._heap) > 4 * len(self._due):
            self._heap = [(at, serial, k) for k, (at, serial) in self._due.items()]
            heapq.heapify(self._heap)

    def cancel(self, key: K) -> None:
        self._due.pop(key, None)

    def deadline(self) -> float:
        """The earliest deadline, infinity without one. Too early while there is much to throw away: ask again."""
        self._prune()
        return self._heap[0][0] if self._heap else math.inf

    def pop(self, now: float) -> K | None:
        """A key whose deadline is not after `now`, its deadline removed; None if there is none.

        None also while there is much to throw away; `deadline` tells.
        """
        if not self._prune() or not self._heap or self._heap[0][0] > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key

    def _prune(self) -> bool:
        """Whether the first entry holds."""
        heap = self._heap
        for _ in range(PRUNED):
            if not heap or self._due.get(heap[0][2]) == heap[0][:2]:
                return True
            heapq.heappop(heap)
        return False
