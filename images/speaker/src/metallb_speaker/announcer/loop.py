"""The announcer's event loop: descriptors by priority, deadlines, and what can wait, in slices.

One turn: wait, then what is readable (most urgent first), then deadlines, then of what can wait (the link, pages,
background work) as much as fits half a millisecond, in rotation. Nothing in it may block; a handler that has more
to do than half a millisecond does a part and comes back in the next turn.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, Protocol

from metallb_common.obs import logs

#: Seconds that a turn waits at most, so that a process that was stopped notices soon after it goes on.
LONGEST_WAIT: Final = 0.25
#: Seconds after the beginning of a turn from which on nothing more is begun that can wait.
BUDGET: Final = 0.0005
#: A wait below this many seconds is timed to the microsecond; epoll's own clock counts whole milliseconds, rounded up.
SHORT: Final = 0.005

Handler = Callable[[float], None]


class Priority(IntEnum):
    """Who is served first in a turn. LINK and what follows it can wait."""

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
    """One descriptor: its handlers, what epoll was told of it, and what it was found ready for."""

    __slots__ = ("fd", "mask", "priority", "read", "ready", "write")

    def __init__(self, fd: int, priority: Priority) -> None:
        self.fd, self.priority = fd, priority
        self.read: Handler | None = None
        self.write: Handler | None = None
        self.mask = self.ready = 0


class Loop:
    """`first` is called in every turn before any handler, `last` after all of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.first: Handler | None = None
        self.last: Handler | None = None
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}
        self._sources: list[Source] = []
        self._timers: list[tuple[float, int, Handler]] = []
        self._count = 0
        #: What can wait, in rotation: descriptors that are ready, handlers to be called once, and jobs.
        self._waiting: deque[_Entry | Handler | Iterator[object]] = deque()
        self.turns = 0
        self.longest = 0.0  # seconds of the longest turn, waiting not counted, since `take_longest`

    def watch(self, fd: int, handler: Handler, priority: Priority = Priority.LAYER2) -> None:
        """Call `handler(now)` in every turn in which `fd` is readable, or soon after if the priority can wait."""
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
            with contextlib.suppress(OSError, ValueError):  # closed already: the kernel has forgotten it
                self._epoll.unregister(fd)

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

    def soon(self, handler: Handler) -> None:
        """Call `handler(now)` once, in a turn that has time for it: the next one, or one soon after."""
        self._waiting.append(handler)

    def job(self, slices: Iterator[object]) -> None:
        """Background work: at most one `next` per turn until it ends."""
        self._waiting.append(slices)

    @property
    def busy(self) -> bool:
        """Something waits that needs no event."""
        return bool(self._waiting)

    def take_longest(self) -> float:
        """The longest turn since the last call, in seconds."""
        longest, self.longest = self.longest, 0.0
        return longest

    def turn(self, limit: float = LONGEST_WAIT) -> None:
        """One turn; waits at most `limit` seconds."""
        wait = self._wait(limit)
        if 0.0 < wait < SHORT:
            select.select((self._epoll.fileno(),), (), (), wait)
            wait = 0.0
        found = self._epoll.poll(wait)
        now = self.clock()
        self.turns += 1
        if self.first:
            self.first(now)
        if found:
            self._serve_ready(found, now)
        for source in self._sources:
            if source.deadline() <= now:
                source.on_deadline(now)
        if self._timers and self._timers[0][0] <= now:
            due = []
            while self._timers and self._timers[0][0] <= now:
                due.append(heapq.heappop(self._timers)[2])
            for handler in due:  # what they set for now is for the next turn
                handler(now)
        for _ in range(len(self._waiting)):  # what they add is for the next turn
            self._next_waiting(now)
            if self.clock() - now > BUDGET:
                break
        if self.last:
            self.last(now)
        self.longest = max(self.longest, self.clock() - now)

    def _wait(self, limit: float) -> float:
        """Seconds, at least 0."""
        if self._waiting:
            return 0.0
        wake = self._timers[0][0] if self._timers else math.inf
        for source in self._sources:
            due = source.deadline()
            if due < wake:
                wake = due
        return max(0.0, min(limit, wake - self.clock()))

    def _serve_ready(self, found: list[tuple[int, int]], now: float) -> None:
        entries = []
        for fd, events in found:
            entry = self._entries.get(fd)
            if entry is not None:
                if not entry.ready:
                    entries.append(entry)
                entry.ready |= events
        if len(entries) > 1:
            entries.sort(key=lambda entry: entry.priority)
        for entry in entries:
            if entry.priority < Priority.LINK:
                self._serve(entry, now)
            else:
                self._waiting.append(entry)

    def _serve(self, entry: _Entry, now: float) -> None:
        """Call its handlers. An error or the end of a connection is for whichever there is to find out."""
        ready, entry.ready = entry.ready, 0
        if ready & ~select.EPOLLOUT and entry.read and self._entries.get(entry.fd) is entry:
            entry.read(now)
        if ready & ~select.EPOLLIN and entry.write and self._entries.get(entry.fd) is entry:
            entry.write(now)

    def _next_waiting(self, now: float) -> None:
        item = self._waiting.popleft()
        if isinstance(item, _Entry):
            self._serve(item, now)
        elif callable(item):
            item(now)
        else:
            try:
                next(item)
            except StopIteration:
                return
            except Exception as failure:  # background work (a file, a page) must not end the announcing
                logs.error(op="job", msg="background work failed", error=repr(failure))
                return
            self._waiting.append(item)

    def _register(self, entry: _Entry) -> None:
        mask = (select.EPOLLIN if entry.read else 0) | (select.EPOLLOUT if entry.write else 0)
        if not mask:
            self.unwatch(entry.fd)
            return
        try:
            self._epoll.modify(entry.fd, mask)
        except FileNotFoundError:
            self._epoll.register(entry.fd, mask)

    def close(self) -> None:
        self._epoll.close()
