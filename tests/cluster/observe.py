"""What somebody outside the cluster sees of an address: who answers for it, its page, how long it was away."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.cluster.instance import ClusterError
from tests.cluster.plan import Plan, url_host

_PROBE = Path(__file__).with_name("probe.py")
_PORT = re.compile(r" \(port (\d+)\)$")  # as the probe names it
#: Seconds in which an answer to a question about an address may come; and what starting the program takes at most.
_LISTEN, _SLACK = 0.6, 0.4
_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE)


class Inside(Protocol):
    """What is needed of a cluster: to run programs in its hosts."""

    plan: Plan

    def run_in(
        self, host: str, *argv: str, input: str | None = None, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]: ...

    def popen_in(self, host: str, *argv: str, **options: Any) -> subprocess.Popen[Any]: ...


@dataclass(frozen=True)
class Outage:
    """From the start of the first failed attempt to the start of the next good one (monotonic seconds)."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Report:
    """All attempts of a probe, by start: (start, end, page or ``!error``; ``!broken: error`` after it connected).

    Attempts during which the probe itself did not get to run are apart, in `stalled`: they tell of the machine.
    """

    attempts: list[tuple[float, float, str]]
    stalled: list[tuple[float, float, str]] = field(default_factory=list)

    @classmethod
    def told(cls, attempts: Sequence[Sequence[Any]], stalls: Sequence[Sequence[float]]) -> Report:
        """From what the probe says: every attempt that was under way in one of the stalls is set apart."""
        found = cls([])
        for start, end, text in attempts:
            during = any(start <= until and end >= since for since, until in stalls)
            (found.stalled if during else found.attempts).append((start, end, text))
        return found

    @property
    def set_apart(self) -> str:
        """Of those set apart, in words; "" if there are none."""
        if not self.stalled:
            return ""
        failed = sum(text.startswith("!") for _, _, text in self.stalled)
        return f"{len(self.stalled)} attempts ({failed} failed) left out: the machine stalled"

    @property
    def good(self) -> list[str]:
        return [text for _, _, text in self.attempts if not text.startswith("!")]

    @property
    def failures(self) -> Counter[str]:
        return Counter(_PORT.sub("", text) for _, _, text in self.attempts if text.startswith("!"))

    @property
    def refused(self) -> Counter[str]:
        """Failures of attempts that made no connection."""
        return Counter({text: n for text, n in self.failures.items() if not text.startswith("!broken")})

    @property
    def broken(self) -> Counter[str]:
        """Failures of attempts that had made one: it was open when its address moved, say."""
        return Counter({text: n for text, n in self.failures.items() if text.startswith("!broken")})

    def ports(self, *, broken: bool) -> dict[int, float]:
        """The client's ports of attempts that failed, and when they began: of broken connections, or of the others."""
        failed = [(s, t) for s, _, t in self.attempts if t.startswith("!") and t.startswith("!broken") is broken]
        return {int(found[1]): start for start, text in failed if (found := _PORT.search(text))}

    def impatient(self, limit: float) -> Report:
        """The same attempts as a client sees them that waits `limit` seconds for each: a later success is a failure."""
        late = f"!slower than {limit} s"
        seen = [(s, e, late if e - s > limit and not t.startswith("!") else t) for s, e, t in self.attempts]
        return Report(seen, self.stalled)

    @property
    def outages(self) -> list[Outage]:
        """Every run of failed attempts; one that lasts to the end ends with the last attempt."""
        found: list[Outage] = []
        begin: float | None = None
        for start, _, text in self.attempts:
            if text.startswith("!"):
                begin = start if begin is None else begin
            elif begin is not None:
                found.append(Outage(begin, start))
                begin = None
        if begin is not None:
            found.append(Outage(begin, self.attempts[-1][0]))
        return found

    @property
    def longest(self) -> float:
        """Seconds of the longest outage; 0 if every attempt succeeded."""
        return max((o.seconds for o in self.outages), default=0.0)

    def since(self, moment: float) -> Report:
        """Only the attempts that started at `moment` (time.monotonic()) or later."""
        return Report([a for a in self.attempts if a[0] >= moment], [a for a in self.stalled if a[0] >= moment])

    def values(self, key: str) -> Counter[str]:
        """How often each value of a key (``node``, ``pod``, ``client``) stands in the guest's pages."""
        return Counter(page_value(text, key) for text in self.good)


class Reporter:
    """A running program of ours that is asked for reports; use it as a context manager, so that it ends."""

    def __init__(self, process: subprocess.Popen[str], what: str) -> None:
        self._process, self._what = process, what

    def _told(self) -> Any:
        """What it has to say, from one line of JSON. Raises ClusterError if it has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("report\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise ClusterError(f"{self._what} has ended: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Probe(Reporter):
    """A client that connects again and again."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process, "the probe")

    def report(self) -> Report:
        """What has been seen so far. Raises ClusterError if the probe has died."""
        return Report.told(**self._told())


class Observer(Inside):
    """Mixed into `api.Cluster`."""

    def fetch(
        self, address: str, *, port: int = 80, path: str = "/", host: str = "client", timeout: float = 5.0
    ) -> str:
        """The page at an address, fetched from a host outside the cluster. Raises ClusterError."""
        url = f"http://{url_host(address)}:{port}{path}"
        return self.run_in(
            host, "curl", "-sS", "--fail", "--noproxy", "*", "--max-time", str(timeout), "-g", url
        ).stdout

    def owners(self, address: str, *, host: str = "client", attempts: int = 2) -> list[str]:
        """Names of all hosts that answer ARP or NDP for an address on the switch, sorted; MAC if no host of ours.

        Asked `attempts` times by broadcast (multicast for IPv6), so that a second answerer is seen, too. Takes up to
        about a second per attempt. Empty: nobody answers. Asked anew if the machine stalled meanwhile: an answer that
        came too late for that reason says nothing.
        """
        if ":" in address:
            argv = ["ndisc6", "-m", "-r", "1", "-w", f"{_LISTEN * 1000:.0f}", address, "eth0"]
            questions = attempts
        else:
            argv = ["arping", "-i", "eth0", "-c", str(attempts), "-w", str(_LISTEN), address]
            questions = 1
        for _ in range(5):
            start = time.monotonic()
            said = "".join(self.run_in(host, *argv, check=False).stdout for _ in range(questions))
            if time.monotonic() - start < questions * (_LISTEN + _SLACK):
                break
        return sorted({self.name_of(mac) for mac in _MAC.findall(said)})

    def name_of(self, mac: str) -> str:
        """The host that has this MAC address, or the address itself."""
        by_mac = {h.mac: h.name for h in self.plan.hosts}
        return by_mac.get(mac.lower(), mac.lower())

    def neighbour(self, address: str, *, host: str = "client") -> str:
        """The host to which `host` would send a frame for the address now, by its neighbour table; "" if unknown."""
        said = self.run_in(host, "ip", "neigh", "show", "to", address, "dev", "eth0").stdout
        found = _MAC.search(said)
        return self.name_of(found[0]) if found else ""

    def forget_neighbours(self, *, host: str = "client") -> None:
        """Empty the host's ARP and NDP caches, as a host that comes new."""
        self.run_in(host, "ip", "neigh", "flush", "dev", "eth0", check=False)

    def probe(
        self,
        address: str,
        *,
        port: int = 80,
        path: str = "/",
        every: float = 0.05,
        timeout: float = 0.5,
        host: str = "client",
    ) -> Probe:
        """Fetch a page every so many seconds from now on, each time on a new connection; see `Probe.report`."""
        argv = [sys.executable, "-I", str(_PROBE), address, str(port), path, str(every), str(timeout)]
        return Probe(self.popen_in(host, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


def page_value(page: str, key: str) -> str:
    """The value of a key in the guest's page; "" if it has none."""
    for line in page.splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value
    return ""
