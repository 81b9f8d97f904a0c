"""The announcer's event loop: descriptors by priority, deadlines, and background work in slices.

One turn: wait, then what is readable (most urgent first), then deadlines, then one slice of background
work. Nothing in it may block; what takes more than a millisecond is a job, a slice a turn.
"""

from __future__ import annotations

import contextlib
import heapq
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Protocol

from metallb_common.obs import logs

#: Seconds that a turn waits at most, so that a process that was stopped notices soon after it goes on.
LONGEST_WAIT = 0.25

Handler = Callable[[float], None]


class Priority(IntEnum):
    """Who is served first in a turn."""

    BFD = 0
    SIGNAL = 1
    LAYER2 = 2
    MEMBERSHIP = 3
    BGP = 4
    LINK = 5
    WEB = 6


class Source(Protocol):
    """Anything with a deadline: every machine of the announcer."""

    def deadline(self) -> float: ...

    def on_deadline(self, now: float) -> None: ...


class _Entry:
    __slots__ = ("fd", "priority", "read", "write")

    def __init__(self, fd: int, priority: Priority) -> None:
        self.fd, self.priority = fd, priority
        self.read: Handler | None = None
        self.write: Handler | None = None

    def mask(self) -> int:
        return (selectors.EVENT_READ if self.read else 0) | (selectors.EVENT_WRITE if self.write else 0)


class Loop:
    """`first` is called in every turn before any handler, `last` after all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.first: Handler | None = None
        self.last: Handler | None = None
        self._selector = selectors.DefaultSelector()
        self._entries: dict[int, _Entry] = {}
        self._sources: list[Source] = []
        self._timers: list[tuple[float, int, Handler]] = []
        self._count = 0
        self._jobs: deque[Iterator[object]] = deque()
        self._wake = False
        self.turns = 0
        self.longest = 0.0  # seconds of the longest turn, waiting not counted, since `take_longest`

    def watch(self, fd: int, handler: Handler, priority: Priority = Priority.LAYER2) -> None:
        """Call `handler(now)` in every turn in which `fd` is readable."""
        entry = self._entries.setdefault(fd, _Entry(fd, priority))
        entry.priority = priority
        entry.read = handler
        self._register(entry)

    def watch_writable(self, fd: int, handler: Handler | None, priority: Priority = Priority.WEB) -> None:
        """The same for writing; None ends it."""
        entry = self._entries.setdefault(fd, _Entry(fd, priority))
        entry.write = handler
        self._register(entry)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; call it before closing. One that is not watched is fine."""
        if self._entries.pop(fd, None) is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):  # closed already: the kernel has forgotten it
                self._selector.unregister(fd)

    def at_priority(self, priority: Priority) -> Callable[[int, Handler], None]:
        """`watch` with the priority fixed, as edges want it."""
        return lambda fd, handler: self.watch(fd, handler, priority)

    def source(self, source: Source) -> None:
        """Ask `source` for its deadline in every turn."""
        self._sources.append(source)

    def at(self, when: float, handler: Handler) -> None:
        """Call `handler(now)` once, at `when` or soon after."""
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handler))

    def job(self, slices: Iterator[object]) -> None:
        """Background work: one `next` per turn until it ends."""
        self._jobs.append(slices)

    def soon(self) -> None:
        """Do not wait in the next turn."""
        self._wake = True

    def take_longest(self) -> float:
        """The longest turn since the last call, in seconds."""
        longest, self.longest = self.longest, 0.0
        return longest

    def turn(self, limit: float = LONGEST_WAIT) -> None:
        """One turn; waits at most `limit` seconds."""
        wait = self._wait(self.clock(), limit)
        self._wake = False
        ready = self._selector.select(wait)
        now = self.clock()
        self.turns += 1
        if self.first:
            self.first(now)
        if len(ready) > 1:
            ready.sort(key=lambda pair: pair[0].data.priority)
        for key, mask in ready:
            entry: _Entry = key.data
            if mask & selectors.EVENT_READ and entry.read and self._entries.get(entry.fd) is entry:
                entry.read(now)
            if mask & selectors.EVENT_WRITE and entry.write and self._entries.get(entry.fd) is entry:
                entry.write(now)
        for source in self._sources:
            if source.deadline() <= now:
                source.on_deadline(now)
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for handler in due:  # what they set for now is for the next turn
            handler(now)
        if self._jobs:
            self._slice()
        if self.last:
            self.last(now)
        self.longest = max(self.longest, self.clock() - now)

    def _wait(self, now: float, limit: float) -> float:
        if self._wake or self._jobs:
            return 0.0
        wake = now + limit
        for source in self._sources:
            wake = min(wake, source.deadline())
        if self._timers:
            wake = min(wake, self._timers[0][0])
        return max(0.0, wake - now)

    def _slice(self) -> None:
        job = self._jobs.popleft()
        try:
            next(job)
        except StopIteration:
            return
        except Exception as failure:  # background work (a file, a page) must not end the announcing
            logs.error(op="job", msg="background work failed", error=repr(failure))
            return
        self._jobs.append(job)

    def _register(self, entry: _Entry) -> None:
        mask = entry.mask()
        try:
            if not mask:
                self._entries.pop(entry.fd, None)
                self._selector.unregister(entry.fd)
            elif entry.fd in self._selector.get_map():
                self._selector.modify(entry.fd, mask, entry)
            else:
                self._selector.register(entry.fd, mask, entry)
        except KeyError:
            pass

    def close(self) -> None:
        self._selector.close()
