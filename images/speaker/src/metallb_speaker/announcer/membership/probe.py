"""SWIM's probing: one member each period, in a random order that is drawn anew for every round (section 4.3).

And the favours: pinging a member for somebody else. Both decide by returning; `swim` sends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from metallb_speaker.announcer.membership.timings import Timings

#: Favours under way, at most: `helpers` of each of a few dozen members at once. Authentic senders only.
MAX_FAVOURS = 128


class Order:
    """Whom to probe next: everybody once per round, newcomers at a random place of the current one."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._queue: list[str] = []

    def next(self, alive: Collection[str]) -> str:
        """A name of `alive`; "" if there is none."""
        while self._queue:
            name = self._queue.pop()
            if name in alive:
                return name
        self._queue = sorted(alive)
        self._rng.shuffle(self._queue)
        return self._queue.pop() if self._queue else ""

    def add(self, name: str) -> None:
        """A new member."""
        if name not in self._queue:
            self._queue.insert(self._rng.randint(0, len(self._queue)), name)


@dataclass(slots=True)
class Probe:
    """The probe of one period."""

    target: str
    sequence: int
    sent: float
    timeout: float
    next_at: float  # to ping again, and to ask others
    rounds: int = 0  # of asking
    asked: int = 0  # helpers in all
    nacked: int = 0
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Favour:
    """A ping on behalf of `requester`."""

    requester: str
    sequence: int  # the requester's
    nack_at: float


class Favours:
    """Pings that we send for others, by our own sequence."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._items: dict[int, Favour] = {}

    def add(self, own: int, requester: str, sequence: int, now: float) -> None:
        """Forget the oldest beyond MAX_FAVOURS: its requester asked others, too."""
        if len(self._items) >= MAX_FAVOURS:
            del self._items[next(iter(self._items))]
        self._items[own] = Favour(requester, sequence, now + self._timings.timeout * 0.8)

    def answered(self, own: int) -> Favour | None:
        """The target of our ping answered: whom to tell."""
        return self._items.pop(own, None)

    def due(self, now: float) -> list[Favour]:
        """Those whose target did not answer: to be nacked."""
        late = [own for own, favour in self._items.items() if favour.nack_at <= now]
        return [self._items.pop(own) for own in late]

    def deadline(self) -> float:
        """Of the oldest; they are in order."""
        return next(iter(self._items.values())).nack_at if self._items else float("inf")
