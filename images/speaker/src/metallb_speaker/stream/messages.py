"""What the halves tell each other besides the items themselves, as frozen values and as frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metallb_speaker.desired import STREAM_VERSION, Item
from metallb_speaker.stream.frames import StreamError, frame, text, texts

Key = tuple[str, str]  # kind name, item key
#: A metric: name, help, type, label names, and series of label values and value.
Numbers = tuple[str, str, str, tuple[str, ...], tuple[tuple[tuple[str, ...], float], ...]]


@dataclass(frozen=True, slots=True)
class Hello:
    """The other half is there; `version` is its program version."""

    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """Items that came or changed, and keys that went. `why` tells of Services that are no longer announced."""

    put: tuple[Item, ...] = ()
    drop: tuple[Key, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)  # namespace/name -> serviceWithdrawn reason


@dataclass(frozen=True, slots=True)
class Complete:
    """A transaction is whole: the receiver now holds this version."""

    version: int
    snapshot: bool


@dataclass(frozen=True, slots=True)
class State:
    """What the cluster half says of itself, some times a minute and whenever it changes."""

    synced: bool
    problems: tuple[str, ...] = ()
    numbers: tuple[Numbers, ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """The receiver asks for a snapshot."""


@dataclass(frozen=True, slots=True)
class Announced:
    """This node began to announce: the cluster half makes the Service's nodeAssigned event of it."""

    service: str  # namespace/name
    protocol: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """This node stopped announcing."""

    service: str
    protocol: str
    ips: tuple[str, ...]
    reason: str  # a serviceWithdrawn reason of contract section 4


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that deserves a Kubernetes event: about the own node, or about a Service."""

    kind: str  # "Node" or "Service"
    name: str  # node name, or namespace/name
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class MembersSeen:
    """What the announcer's membership sees: names alive, and whether membership works at all."""

    working: bool
    alive: tuple[str, ...]


Report = Announced | Withdrawn | Warned | MembersSeen
Event = Hello | Change | Complete | State
Upstream = Hello | Again | Announced | Withdrawn | Warned | MembersSeen

REPORTS: dict[str, type] = {
    "announced": Announced,
    "withdrawn": Withdrawn,
    "warned": Warned,
    "members": MembersSeen,
}
_REPORT_NAMES = {kind: name for name, kind in REPORTS.items()}


def hello(version: str) -> bytes:
    """The first frame in both directions."""
    return frame({"t": "hello", "stream": STREAM_VERSION, "version": version})


def read_hello(message: Mapping[str, Any]) -> Hello:
    if message.get("stream") != STREAM_VERSION:
        raise StreamError(f"stream version {message.get('stream')!r}, not {STREAM_VERSION}")
    return Hello(text(message, "version"))


def state(report: State) -> bytes:
    return frame({"t": "state", "synced": report.synced, "problems": report.problems, "numbers": report.numbers})


def read_state(message: Mapping[str, Any]) -> State:
    numbers = []
    families = message.get("numbers")
    for family in families if type(families) is list else ():
        if type(family) is not list or len(family) != 5 or type(family[4]) is not list:
            raise StreamError("not a metric family")
        name, help, kind, labels, series = family
        if not (type(name) is type(help) is type(kind) is str):
            raise StreamError("not a metric family")
        names = texts(labels)
        entries = []
        for entry in series:
            if type(entry) is not list or len(entry) != 2 or type(entry[1]) not in (int, float):
                raise StreamError("not a series")
            values = texts(entry[0])
            if len(values) != len(names):
                raise StreamError("not a series")
            entries.append((values, float(entry[1])))
        numbers.append((name, help, kind, names, tuple(entries)))
    return State(message.get("synced") is True, texts(message.get("problems")), tuple(numbers))


def report(value: Report) -> bytes:
    """A report as a frame."""
    body = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    return frame({"t": _REPORT_NAMES[type(value)], **body})


def again() -> bytes:
    return frame({"t": "again"})


def read_report(name: str, message: Mapping[str, Any]) -> Report:
    """Raises StreamError."""
    kind, values = REPORTS[name], dict[str, Any]()
    for entry in dataclasses.fields(kind):
        if entry.type == "str":
            values[entry.name] = text(message, entry.name)
        elif entry.type == "bool":
            values[entry.name] = message.get(entry.name) is True
        else:
            values[entry.name] = texts(message.get(entry.name))
    report: Report = kind(**values)
    return report
