"""Who answered for addresses over a stretch of time: silences, two answerers at once, moves; from `asker`'s notes."""

from __future__ import annotations

import bisect
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.observe import Inside, Outage, Reporter
from tests.cluster.plan import REGISTRY, Host

#: Seconds that an ordered hand-over may last on a busy machine.
OVERLAP = 0.15
#: Seconds that are looked back on to say who answers at present.
LOOK = 0.6
_ASKER = Path(__file__).with_name("asker.py")


@dataclass
class Timeline:
    """One address: the questions, and who answered each before the next was asked (host names)."""

    asked: list[float] = field(default_factory=list)
    answered: list[set[str]] = field(default_factory=list)
    announced: list[tuple[float, str]] = field(default_factory=list)  # without a question: when, and by whom

    def since(self, start: float, end: float = float("inf")) -> Timeline:
        """Only what was asked from `start` to `end` (monotonic seconds)."""
        first, last = bisect.bisect_left(self.asked, start), bisect.bisect_right(self.asked, end)
        told = [(when, who) for when, who in self.announced if start <= when <= end]
        return Timeline(self.asked[first:last], self.answered[first:last], told)

    def _runs(self, matches: Callable[[set[str]], bool]) -> list[Outage]:
        """Stretches of questions whose answerers match, each up to the next that does not."""
        found: list[Outage] = []
        begin: float | None = None
        for when, who in zip(self.asked, self.answered, strict=True):
            if matches(who):
                begin = when if begin is None else begin
            elif begin is not None:
                found.append(Outage(begin, when))
                begin = None
        if begin is not None:
            found.append(Outage(begin, self.asked[-1]))
        return found

    @property
    def silences(self) -> list[Outage]:
        """Stretches without any answer; the very last question is left out, its answer may be on its way."""
        whole = Timeline(self.asked[:-1], self.answered[:-1])
        return whole._runs(lambda who: not who)

    @property
    def silence(self) -> float:
        """Seconds of the longest silence."""
        return max((s.seconds for s in self.silences), default=0.0)

    @property
    def doubles(self) -> list[Outage]:
        """Stretches in which two or more answered."""
        return self._runs(lambda who: len(who) > 1)

    @property
    def doubled(self) -> float:
        """Seconds of the longest of them."""
        return max((d.seconds for d in self.doubles), default=0.0)

    @property
    def owners(self) -> list[str]:
        """Who answered alone, one after the other: ``[node1]``, or ``[node1, node2, node1]`` after going and coming.

        While both answer, as in an ordered hand-over, now one's answer may be late and now the other's: that two take
        turns for less than OVERLAP seconds each is one move.
        """
        found: list[tuple[str, float]] = []  # and since when
        for when, who in zip(self.asked, self.answered, strict=True):
            if len(who) == 1 and (name := next(iter(who))) != (found[-1][0] if found else ""):
                found.append((name, when))
                names, since = zip(*found[-4:], strict=True)
                if names[:2] == names[2:] and max(since[2] - since[1], since[3] - since[2]) < OVERLAP:
                    del found[-2:]
        return [name for name, _ in found]

    @property
    def last(self) -> set[str]:
        """Who answered the last question but one; nobody if fewer were asked."""
        return self.answered[-2] if len(self.answered) > 1 else set()


class Answers(Reporter):
    """A running asker; use it as a context manager, so that it ends.

    It asks from another host than the client, whose kernel would learn from the answers who has an address.
    """

    def __init__(
        self,
        cluster: Inside,
        addresses: Sequence[str],
        *,
        every: float = 0.01,
        rest: float = 0.05,
        host: Host = REGISTRY,
    ) -> None:
        self._names = {h.mac: h.name for h in cluster.plan.hosts}
        self._addresses = list(addresses)
        self._lines = {address: Timeline() for address in self._addresses}
        self._every, self._asked_last = every, float("inf")
        #: Stretches in which the asker did not get to run: what is seen then says nothing of who has an address.
        self.stalls: list[Outage] = []
        argv = [sys.executable, "-I", str(_ASKER), "eth0", host.mac, host.v4, str(every), str(rest), *addresses]
        super().__init__(
            cluster.popen_in(host.name, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True), "the asker"
        )

    def now(self) -> dict[str, Timeline]:
        """All that has happened so far, by address. Raises ClusterError if the asker has died."""
        told = self._told()
        for when, number in told["asked"]:
            line = self._lines[self._addresses[number]]
            line.asked.append(when)
            line.answered.append(set())
            if when - self._asked_last > self._every + OVERLAP:
                self.stalls.append(Outage(self._asked_last, when))
            self._asked_last = when
        for when, number, mac, kind in told["heard"]:
            line = self._lines[self._addresses[number]]
            name = self._names.get(mac, mac)
            at = bisect.bisect_right(line.asked, when) - 1
            if kind == "announcement":
                line.announced.append((when, name))
            elif at >= 0:
                line.answered[at].add(name)
        return self._lines

    def lately(self) -> dict[str, str]:
        """Who has answered in the last LOOK seconds, by address: one host, or several; "": nobody; "?": not asked."""
        lines, start = self.now(), time.monotonic() - LOOK
        found = {}
        for address, line in lines.items():
            answered = line.since(start).answered[:-1]
            found[address] = " ".join(sorted(set().union(*answered))) if answered else "?"
        return found

    def stalled(self, start: float) -> float:
        """Seconds since `start` in which the asker did not run: by so much a silence or a double may be longer."""
        return sum(stall.end - max(start, stall.start) for stall in self.stalls if stall.end > start)
