"""What membership tells its caller: how each member stands, and what has just happened.

Names are node names. MAC addresses are lower-case text with colons.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from metallb_speaker.announcer.membership.messages import Claim, Handover, Released


class Tier(IntEnum):
    """How good a member is as an announcer; an election takes the best tier that has a candidate."""

    SETTLED = 0  # alive, and long enough to be given addresses that another one holds
    NEW = 1  # alive, but it came (back) just now: gets only what nobody settled can have
    LEAVING = 2  # alive, but it has said that it goes: keeps only what nobody else can have
    SILENT = 3  # not heard any more, or never, or gone: gets nothing (but see `Standing.cluster_only`)


@dataclass(frozen=True, slots=True)
class Standing:
    """One member as this node sees it. A value: a change makes a new one."""

    name: str
    tier: Tier
    suspect: bool = False
    cluster_only: bool = False  # nothing was ever heard: the tier rests on the cluster's view alone
    macs: tuple[str, ...] = ()  # that it announces with; empty: not known
    prefixes: tuple[str, ...] | None = None  # that it has a connected route to; None: not known


@dataclass(frozen=True, slots=True)
class Joined:
    """`name` is alive and was not before."""

    name: str


@dataclass(frozen=True, slots=True)
class Changed:
    """`name` stays alive, but its tier or its MAC addresses changed."""

    name: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """`name` is silent: probably dead. `Failed` or `Cleared` follows. The time to ask the wire about it."""

    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """`name` was suspected wrongly."""

    name: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`name` is given up, without a word from it."""

    name: str


@dataclass(frozen=True, slots=True)
class Left:
    """`name` said that it is gone, or the cluster deleted it."""

    name: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Enough is known to elect for the first time: the seeds have answered, or the wait for them is over."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """This process was not running for `seconds`: the others may have replaced it. Own nothing until `Fresh`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fresh:
    """After `Stopped`: the view is current again."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """The others had given this node up, and it was indeed cut off: it starts anew as a returner."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """Members that the cluster says are alive are not heard: UDP is blocked. Said once per set of names."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """All members that the cluster says are alive are heard again."""


@dataclass(frozen=True, slots=True)
class Received:
    """A member's message about owning addresses, for the ownership machine."""

    sender: str
    message: Claim | Released | Handover


Event = (
    Joined
    | Changed
    | Suspect
    | Cleared
    | Failed
    | Left
    | Ready
    | Stopped
    | Fresh
    | Replaced
    | Degraded
    | Restored
    | Received
)
