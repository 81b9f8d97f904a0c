"""What one member says to another: frozen values, without their encoding (`wire`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Status(IntEnum):
    """What is said of a member. At equal incarnations the higher one holds (SWIM section 4.2)."""

    ALIVE = 0
    SUSPECT = 1
    FAILED = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Record:
    """What is said of one member: the unit of gossip.

    Only the member itself raises `incarnation`, and only it sets `settled`, `leaving`, `macs`, `prefixes` and `port`.
    `boot` tells one life of its process from the next. `accuser` is who suspects it, if SUSPECT.
    """

    name: str
    status: Status
    incarnation: int
    boot: int
    address: str = ""  # "" if not known
    port: int = 0
    settled: bool = False
    leaving: bool = False
    macs: tuple[str, ...] = ()
    accuser: str = ""
    prefixes: tuple[str, ...] | None = None  # that it has a connected route to, as text; None: it does not say


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer me. `sequence` comes back in the Ack."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a Ping, or to a PingReq whose target answered."""

    sequence: int


@dataclass(frozen=True, slots=True)
class PingReq:
    """Ping `target` for me, and pass on its answer."""

    sequence: int
    target: str


@dataclass(frozen=True, slots=True)
class Nack:
    """I could not reach the target of your PingReq, but I am here (Lifeguard's self-awareness)."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Beat:
    """I am here. `hearing`: I have heard you, too, just now."""

    hearing: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """Proof of being live rather than a recording: `echo` is the number last asked for, `nonce` asks back (0: no need).

    `settled_for` is how long the sender has been settled, in tenths of a second (0: it is not, yet).
    """

    nonce: int
    echo: int
    settled_for: int


@dataclass(frozen=True, slots=True)
class Claim:
    """I own the groups `keys` now, by a view of `generation`."""

    generation: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """I do not own the groups `keys` (any more): the answer to a Claim."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Handover:
    """I own the groups `keys`, but you should: take them, and say so by a Claim."""

    keys: tuple[str, ...]


Message = Record | Ping | Ack | PingReq | Nack | Beat | Hello | Claim | Released | Handover
