"""Metrics in Prometheus' text format 0.0.4, with exactly the names that are given.

The usual client library appends `_total` to every counter and weighs 10 MiB of memory; the names of
contract section 3 have no suffix, and the announcer must stay small. So this is a registry of its own:
counters and gauges with labels, series that can be removed, and collectors asked at scrape time.
The tests read its output with the client library's parser.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeVar

Labels = tuple[str, ...]

#: Lines made in one slice of a page: about a quarter of a millisecond.
LINES = 128

#: Help texts of contract section 3, so that both processes say the same.
UPDATES = ("metallb_k8s_client_updates_total", "Number of k8s object updates that have been processed.")
UPDATE_ERRORS = (
    "metallb_k8s_client_update_errors_total",
    "Number of k8s object updates that failed for some reason.",
)
CONFIG_LOADED = (
    "metallb_k8s_client_config_loaded_bool",
    "1 if the MetalLB configuration was successfully loaded at least once.",
)
CONFIG_STALE = (
    "metallb_k8s_client_config_stale_bool",
    "1 if running on a stale configuration, because the latest config failed to load.",
)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its series: label values (in the order of `labels`) to value.

    `more` continues the family before it, of the same name: a collector may make a large one in parts.
    """

    name: str
    help: str
    type: str  # "counter" or "gauge"
    labels: tuple[str, ...] = ()
    series: Mapping[Labels, float] = field(default_factory=dict)
    more: bool = False


class _Metric:
    def __init__(self, name: str, help: str, labels: tuple[str, ...]) -> None:
        self.name, self.help, self.labels = name, help, labels
        #: The series, open to hot paths that count by themselves.
        self.series: dict[Labels, float] = {}
        if not labels:
            self.series[()] = 0.0

    def _key(self, values: tuple[str, ...]) -> Labels:
        if len(values) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {values}")
        return values

    def get(self, *values: str) -> float | None:
        """The value of one series, None when there is no such series."""
        return self.series.get(self._key(values))

    def remove(self, *values: str) -> None:
        """Forget one series; one that is not there is fine."""
        self.series.pop(self._key(values), None)

    def keep(self, wanted: Iterable[Labels]) -> None:
        """Forget every series whose label values are not among these."""
        wanted = set(wanted)
        for key in [k for k in self.series if k not in wanted]:
            del self.series[key]


class Counter(_Metric):
    """A number that only grows."""

    type = "counter"

    def inc(self, *values: str, by: float = 1) -> None:
        key = self._key(values)
        self.series[key] = self.series.get(key, 0.0) + by


class Gauge(_Metric):
    """A number that is set."""

    type = "gauge"

    def set(self, value: float, *values: str) -> None:
        self.series[self._key(values)] = value


M = TypeVar("M", Counter, Gauge)


class Registry:
    """The metrics of one process, in the order they were made."""

    def __init__(self, *, process: bool = True) -> None:
        self._sources: list[_Metric | Callable[[], Iterable[Family]]] = []
        self._names: set[str] = set()
        if process:
            self.collector(_process)
            self.collector(_python)

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
        return self._add(Counter(name, help, labels))

    def gauge(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:
        return self._add(Gauge(name, help, labels))

    def collector(self, collect: Callable[[], Iterable[Family]]) -> None:
        """`collect` is asked at every scrape; it must not wait."""
        self._sources.append(collect)

    def _add(self, metric: M) -> M:
        if metric.name in self._names:
            raise ValueError(f"{metric.name} exists already")
        self._names.add(metric.name)
        self._sources.append(metric)
        return metric

    def families(self) -> Iterator[Family]:
        for source in self._sources:
            if isinstance(source, _Metric):
                kind = "counter" if isinstance(source, Counter) else "gauge"
                yield Family(source.name, source.help, kind, source.labels, source.series.copy())
            else:
                yield from source()

    def value(self, name: str, *values: str) -> float | None:
        """One series' value as a scrape would show it, None when it is not there."""
        for family in self.families():
            if family.name == name and values in family.series:
                return family.series[values]
        return None

    def render(self) -> bytes:
        """All of it, as Prometheus' text format 0.0.4."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The same, a family at a time (large ones in slices), for a loop that must not be held up."""
        for family in self.families():
            head = f"# HELP {family.name} {_escape_help(family.help)}\n# TYPE {family.name} {family.type}\n"
            lines = ["" if family.more else head]
            for values, value in family.series.items():
                lines.append(_line(family.name, family.labels, values, value))
                if len(lines) >= LINES:
                    yield "".join(lines).encode()
                    lines = []
            yield "".join(lines).encode()


def _line(name: str, labels: tuple[str, ...], values: Labels, value: float) -> str:
    if not labels:
        return f"{name} {_number(value)}\n"
    inner = ",".join(f'{k}="{_escape(v)}"' for k, v in zip(labels, values, strict=True))
    return f"{name}{{{inner}}} {_number(value)}\n"


def _number(value: float) -> str:
    if isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n")


def _boot_time() -> float:
    with open("/proc/stat", "rb") as stat:
        return next(float(line.split()[1]) for line in stat if line.startswith(b"btime "))


def _process() -> Iterator[Family]:
    """The standard process_* metrics, from /proc (none where there is no /proc)."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rsplit(b")", 1)[1].split()  # proc(5): fields from 3 (state) on
        ticks = os.sysconf("SC_CLK_TCK")
        values = [
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", float(fields[20])),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                "gauge",
                float(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                "gauge",
                _boot_time() + float(fields[19]) / ticks,
            ),
            (
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
                "counter",
                (float(fields[11]) + float(fields[12])) / ticks,
            ),
            ("process_open_fds", "Number of open file descriptors.", "gauge", float(len(os.listdir("/proc/self/fd")))),
        ]
    except (OSError, StopIteration):
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    values.append(("process_max_fds", "Maximum number of open file descriptors.", "gauge", float(limit)))
    for name, help, kind, value in values:
        yield Family(name, help, kind, (), {(): value})


def _python() -> Iterator[Family]:
    """What the interpreter's collector did, and which interpreter it is."""
    stats = gc.get_stats()
    for name, help, key in (
        ("python_gc_objects_collected_total", "Objects collected during gc", "collected"),
        ("python_gc_objects_uncollectable_total", "Uncollectable objects found during GC", "uncollectable"),
        ("python_gc_collections_total", "Number of times this generation was collected", "collections"),
    ):
        yield Family(
            name, help, "counter", ("generation",), {(str(i),): float(stat[key]) for i, stat in enumerate(stats)}
        )
    version = sys.version_info
    yield Family(
        "python_info",
        "Python platform information",
        "gauge",
        ("implementation", "version"),
        {(sys.implementation.name, f"{version.major}.{version.minor}.{version.micro}"): 1.0},
    )
