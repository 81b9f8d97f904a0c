"""The closer watch of one neighbour: silence, worry, doubt, and giving it up.

It decides by returning what to do; `swim` does it. A table of the states::

    quiet    --no sign for `worry`-->     worried     ping it, ask others to
    worried  --no sign for `doubt`-->     doubted     call it suspect
    doubted  --no sign for `confirm`-->   (given up)
    worried, doubted  --a sign-->         quiet

A sign is any datagram of it, or an answer that another member passed on. All times count from when we
began to worry, so a process that wakes late goes through all of it rather than jumping to the end.
"""

from __future__ import annotations

from enum import Enum

from metallb_speaker.announcer.membership.timings import Timings


class Act(Enum):
    """What `step` asks for."""

    PING = "ping"
    ASK = "ask"
    SUSPECT = "suspect"
    CLEAR = "clear"
    FAIL = "fail"


class Watch:
    """One neighbour, from when it became one."""

    __slots__ = ("_ask_at", "_ping_at", "_start", "_timings", "_worried_at", "doubted")

    def __init__(self, now: float, timings: Timings) -> None:
        self._start = now
        self._timings = timings
        self._worried_at: float | None = None
        self._ping_at = self._ask_at = now
        self.doubted = False

    def shift(self, seconds: float) -> None:
        """We were not running for a while: that silence says nothing."""
        self._start += seconds
        if self._worried_at is not None:
            self._worried_at += seconds

    def step(self, now: float, sign: float, confirm: float) -> list[Act]:
        """What is due. `sign`: when it last gave one; `confirm`: the patience that holds now."""
        acts: list[Act] = []
        sign = max(sign, self._start)
        if self._worried_at is not None and sign >= self._worried_at:
            if self.doubted:
                acts.append(Act.CLEAR)
            self._worried_at, self.doubted = None, False
        if self._worried_at is None:
            if now < sign + self._timings.worry:
                return acts
            self._worried_at = self._ping_at = now
            self._ask_at = now + self._timings.ping_every
        elapsed = now - self._worried_at
        if elapsed >= confirm:
            return [*acts, Act.FAIL]
        if elapsed >= self._timings.doubt and not self.doubted:
            self.doubted = True
            acts.append(Act.SUSPECT)
        if now >= self._ping_at:
            self._ping_at = now + self._timings.ping_every
            acts.append(Act.PING)
        if now >= self._ask_at:
            self._ask_at = now + self._timings.ask_every
            acts.append(Act.ASK)
        return acts

    def deadline(self, sign: float, confirm: float) -> float:
        """When `step` must be called next."""
        sign = max(sign, self._start)
        if self._worried_at is None or sign >= self._worried_at:
            return sign + self._timings.worry
        due = min(self._ping_at, self._ask_at, self._worried_at + confirm)
        return due if self.doubted else min(due, self._worried_at + self._timings.doubt)
