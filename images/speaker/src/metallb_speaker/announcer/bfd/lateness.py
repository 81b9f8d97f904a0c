"""How late BFD's packets leave: a histogram, kept where they are made."""

from __future__ import annotations

from bisect import bisect_left

#: Upper bounds of the buckets, in seconds. 15 ms is the target for 99.9 %.
BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1)


class Lateness:
    """Seconds between when a packet was due and when it was made."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def count(self) -> int:
        return sum(self.buckets)
