"""When a peer that asks for routes again (RFC 2918) gets them: at once, but not as often as it likes to ask."""

from __future__ import annotations

from .wire.capabilities import Family

#: Seconds between two answers for one family. An answer may be ten thousand routes, and a peer could ask for thousands
#: of them in one read: that would cost BFD its packets. All that is asked meanwhile has one answer, at the end of it.
GAP = 1.0


class Refreshes:
    """What was asked for and not answered yet."""

    def __init__(self) -> None:
        self._wanted: set[Family] = set()
        self._next_at: dict[Family, float] = {}

    def want(self, family: Family) -> None:
        self._wanted.add(family)

    def take(self, now: float) -> list[Family]:
        """The families to answer now."""
        due = sorted(f for f in self._wanted if now >= self._next_at.get(f, now))
        self._wanted.difference_update(due)
        self._next_at.update(dict.fromkeys(due, now + GAP))
        return due

    def deadline(self) -> float:
        return min((self._next_at.get(f, 0.0) for f in self._wanted), default=float("inf"))
