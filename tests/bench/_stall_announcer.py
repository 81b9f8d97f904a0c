"""The announcer, with every turn of its loop taken down: how long it took, and what took the time.

``python -m tests.bench._stall_announcer REPORT FLAGS...`` is `metallb-speaker FLAGS`, which leaves REPORT at its end:
JSON lists of each turn's begin (monotonic), seconds of wall clock and of processor time, and what the long ones did.
"""

from __future__ import annotations

import atexit
import json
import resource
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metallb_speaker.announcer.edge.groups import Groups
from metallb_speaker.announcer.edge.interface import Interface
from metallb_speaker.announcer.edge.output import Output
from metallb_speaker.announcer.edge.packet import PacketSocket
from metallb_speaker.announcer.layer2.filter import FilterPlan
from metallb_speaker.announcer.layer2.machine import Layer2Machine
from metallb_speaker.announcer.loop import Handler, Loop, Priority, Source
from metallb_speaker.announcer.ownership.machine import Ownership
from metallb_speaker.announcer.record import Record

#: Turns beyond this are explained.
LONG = 0.0007

#: What is taken down besides handlers: parts of layer 2's work.
PARTS = (
    (Layer2Machine, "on_deadline"),
    (Layer2Machine, "change"),
    (FilterPlan, "program"),
    (PacketSocket, "load"),
    (Interface, "on_deadline"),
    (Interface, "change"),
    (Groups, "join"),
    (Groups, "leave"),
    (Ownership, "follow"),
    (Record, "set"),
)

began, walls, cpus = array("d"), array("d"), array("d")
pushed_aside = array("l")  # how often another process was given the processor in the middle of it
explained: dict[int, dict[str, float]] = {}  # turn -> what -> seconds
spent: dict[str, float] = {}  # in this turn


def name_of(function: Any) -> str:
    """Where a handler is from."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    owner = getattr(function, "__self__", None)
    prefix = f"{type(owner).__name__}." if owner is not None else ""
    where = f"{Path(code.co_filename).stem}:{code.co_firstlineno}" if code is not None else ""
    return f"{prefix}{getattr(function, '__name__', type(function).__name__)} ({where})"


def timed(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    label = f"{kind} {name_of(function)}"

    def call(*arguments: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*arguments)
        finally:
            spent[label] = spent.get(label, 0.0) + time.thread_time() - begin

    return call


class TimedSource:
    """A source whose `on_deadline` is taken down."""

    def __init__(self, source: Source) -> None:
        self.deadline = timed(source.deadline, f"{type(source).__name__}")
        self.on_deadline = timed(source.on_deadline, f"{type(source).__name__}")


class TimedLoop(Loop):
    """`Loop` with every handler wrapped. `first` and `last` are wrapped when the first turn sees them."""

    def watch(self, fd: int, handler: Handler, priority: Priority = Priority.LAYER2) -> None:
        super().watch(fd, timed(handler, "read"), priority)

    def watch_writable(self, fd: int, handler: Handler | None, priority: Priority = Priority.WEB) -> None:
        super().watch_writable(fd, timed(handler, "write") if handler else None, priority)

    def at(self, when: float, handler: Handler) -> None:
        super().at(when, timed(handler, "timer"))

    def source(self, source: Source) -> None:
        super().source(TimedSource(source))

    def soon(self, handler: Handler) -> None:
        super().soon(timed(handler, "soon"))

    def job(self, slices: Iterator[object]) -> None:
        step = timed(lambda: next(slices), f"job {getattr(slices, '__qualname__', '')}")

        def steps() -> Iterator[object]:
            while True:
                try:
                    step()
                except StopIteration:
                    return
                yield

        super().job(steps())

    def turn(self, limit: float = 0.25) -> None:
        for hook in ("first", "last"):
            handler = getattr(self, hook)
            if handler is not None and handler.__name__ != "call":
                setattr(self, hook, timed(handler, hook))
        longest, self.longest = self.longest, 0.0
        spent.clear()
        cpu, aside = time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        super().turn(limit)
        cpus.append(time.thread_time() - cpu)
        pushed_aside.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - aside)
        took, self.longest = self.longest, max(longest, self.longest)
        walls.append(took)
        began.append(time.monotonic() - took)
        if cpus[-1] > LONG:
            explained[len(walls) - 1] = dict(spent)


def drain(self: Output, patience: float = 0.0) -> None:
    """Between two turns: it counts to the one before."""
    begin, cpu = time.perf_counter(), time.thread_time()
    write(self, patience)
    if walls:
        took = time.perf_counter() - begin
        walls[-1] += took
        cpus[-1] += time.thread_time() - cpu
        if cpus[-1] > LONG:
            explained.setdefault(len(walls) - 1, dict(spent))["Output.drain"] = took


write = Output.drain


def save(path: str) -> None:
    report = {
        "began": list(began),
        "wall": list(walls),
        "cpu": list(cpus),
        "aside": list(pushed_aside),
        "explained": explained,
    }
    Path(path).write_text(json.dumps(report))


def main() -> int:
    import metallb_speaker.announcer.run as run
    from metallb_speaker.__main__ import main as speaker

    run.Loop = TimedLoop  # type: ignore[misc]
    for owner, verb in PARTS:
        setattr(owner, verb, timed(getattr(owner, verb), f"of these {owner.__name__}"))
    Output.drain = drain  # type: ignore[method-assign]
    atexit.register(save, sys.argv[1])
    return speaker(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
