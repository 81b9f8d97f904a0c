"""What the ownership machine tells its caller. Keys are those of `desired.Layer2Group`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metallb_speaker.announcer.membership.messages import Claim, Handover, Released


@dataclass(frozen=True, slots=True)
class Acquired:
    """This node owns `key` from now on. `previous` is the owner before it ("": nobody known)."""

    key: str
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """This node owns `key` no longer. `reason` is a serviceWithdrawn reason of the contract (section 4)."""

    key: str
    reason: str
    detail: Literal["moved", "claimed", "stopped", "removed", "nobody", "timeout", "left"] = "moved"


@dataclass(frozen=True, slots=True)
class Updated:
    """The addresses or interfaces of an owned group changed."""

    key: str


@dataclass(frozen=True, slots=True)
class Kept:
    """`node` is silent on the membership port, but `mac` answers for `address`: it keeps what it owns."""

    node: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class KeptEnded:
    """`node`, which was kept, is heard again or does not answer on the wire any more."""

    node: str


@dataclass(frozen=True, slots=True)
class SplitBrain:
    """`node` claimed `key` while this node owned it; `yielded`: to whom it went (True: to `node`)."""

    key: str
    node: str
    yielded: bool


@dataclass(frozen=True, slots=True)
class Reassert:
    """Send gratuitous frames for `key` again: an older claim of `node` was, or may have been, on the wire."""

    key: str
    node: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the wire who holds `address` (`Layer2.probe`), and answer with `Ownership.probe_result`."""

    address: str
    wait: float


@dataclass(frozen=True, slots=True)
class Recognised:
    """The wire tells which MAC addresses `node` has, which membership has never heard."""

    node: str
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HandedOver:
    """After `leave`: nothing is owned any more (or the wait for successors is over). `timed_out` keys had no taker."""

    timed_out: tuple[str, ...]


Event = Acquired | Lost | Updated | Kept | KeptEnded | SplitBrain | Reassert | Probe | Recognised | HandedOver


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for a member, to be sent through `Membership.send`."""

    to: str
    message: Claim | Released | Handover
