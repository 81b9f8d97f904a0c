"""For every suite: what may be skipped, and where.

A skip is visible (``-ra``) and says why. In continuous integration (``CI=true``) a skip is a
failure, but for the kernel features named in ALLOWED_SKIPS, one by one. A failed test is run again only
where the machine stood still meanwhile (`stalls.py`), never in `make accept`; the run tells how often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from metallb_common.obs import logs
from tests.stalls import Stalls

#: Reasons that a skip may give in CI: features that the kernel of the build machines lacks.
ALLOWED_SKIPS = (
    "kernel lacks netem",
    "kernel lacks IPVS",
    "kernel lacks VRF",
    "kernel lacks 802.1q",
    "kernel lacks dummy",
    "kernel lacks ipvlan",
)

#: A busy machine is no bug: no time limit for an example. In CI the examples are the same in every run, so that
#: a submission is judged by its own faults; everywhere else they are new ones each time.
_HYPOTHESIS: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
    "print_blob": True,
}
hypothesis.settings.register_profile("here", **_HYPOTHESIS)
hypothesis.settings.register_profile("ci", derandomize=True, **_HYPOTHESIS)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run cheap suites first; leave `accept` to `make accept`."""
    order = ["unit", "property", "vectors", "chart", "integration", "e2e", "bench"]

    def rank(item: pytest.Item) -> int:
        parts = item.path.relative_to(ROOT / "tests").parts
        return order.index(parts[0]) if parts and parts[0] in order else len(order)

    items.sort(key=rank)
    if "accept" not in (config.getoption("-m") or ""):
        chosen = [i for i in items if i.get_closest_marker("accept") is None]
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("accept")])
        items[:] = chosen
        for item in items:
            item.add_marker(pytest.mark.flaky(reruns=2, condition=_stood_still))


#: What watches the machine, and when the test that runs now began. Started with the first test, not by a listing.
_watch: Stalls | None = None
_began = 0.0
_stalls: list[tuple[float, float]] = []  # those in tests that have failed


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart() -> None:
    global _watch, _began
    _watch = _watch or Stalls()
    _began = time.monotonic()


def _stood_still(error: BaseException | None) -> bool:
    """Whether this machine stood still while the test ran that has just failed: then it is run again, visibly."""
    if error is None or _watch is None:
        return False  # the test has passed
    stalls = _watch.since(_began)
    _stalls.extend(stalls)
    return bool(stalls)


def pytest_unconfigure() -> None:
    if _watch:
        _watch.end()


@pytest.fixture(autouse=True)
def _logs_as_at_the_start() -> Iterator[None]:
    """The level and stream of the logs are the process's: what one test sets, the next must not find."""
    kept = logs._threshold, logs._stream
    logs._threshold, logs._stream = logs.LEVELS["info"], None
    yield
    logs._threshold, logs._stream = kept


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Adds to a number that the end of the run tells: a test that judges many things says how many."""
    return lambda what, number: record_property("tally", (what, number))


@pytest.fixture(autouse=True)
def _needs_root(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root: raw sockets and network namespaces")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where every skip is a failure: {reason}"


def _suite(nodeid: str) -> str:
    parts = nodeid.split("::")[0].removeprefix("tests/").split("/")
    return "/".join(parts[:2]) if parts[0] in ("chart", "e2e", "integration") else parts[0]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many of each suite, in how many seconds, so that one line shows what a run covered."""
    counts: dict[str, dict[str, int]] = {}
    seconds: dict[str, float] = {}
    tallies: dict[str, int] = {}
    for outcome in ("passed", "failed", "error", "skipped", "rerun", ""):  # "": set up and torn down
        for report in terminalreporter.stats.get(outcome, ()):
            suite = _suite(report.nodeid)
            if not isinstance(report, pytest.TestReport):
                continue  # a module that could not be collected: pytest tells of it itself
            seconds[suite] = seconds.get(suite, 0.0) + report.duration
            if not outcome or (outcome == "passed" and report.when != "call"):
                continue
            row = counts.setdefault(suite, {})
            row[outcome] = row.get(outcome, 0) + 1
            for what, number in (v for n, v in report.user_properties if n == "tally" and outcome == "passed"):
                tallies[what] = tallies.get(what, 0) + number
    if len(counts) > 1:
        terminalreporter.section("suites", sep="-")
        width = max(map(len, counts))
        for suite, row in sorted(counts.items()):
            found = ", ".join(f"{n} {o}" for o, n in row.items())
            terminalreporter.write_line(f"{suite:{width}}  {found}  {seconds[suite]:.0f} s")
    if _stalls:
        terminalreporter.section("the machine stood still while a test ran that failed", sep="-")
        terminalreporter.write_line(", ".join(f"{length:.2f} s" for _, length in _stalls))
    if tallies:
        terminalreporter.section("counted", sep="-")
        for what, number in sorted(tallies.items()):
            terminalreporter.write_line(f"{number:6}  {what}")
