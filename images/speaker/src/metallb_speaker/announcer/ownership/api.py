"""What the announcer's loop sees of ownership: the verbs. `machine.Ownership` is the machine.

Each turn, after membership was fed (see `membership/api.py`)::

    heard = ownership.follow(membership, now)    # takes its events and view, hands it claims to send
    for event in ownership.events():
        match event:
            case Acquired() | Lost() | Updated(): changed = True        # log serviceAnnounced / serviceWithdrawn
            case Probe(address, wait): layer2.probe(address, now, wait)
            case Reassert(key): ...               # gratuitous frames again for that group
            case HandedOver(): membership.depart(now); flush; exit
    if changed: layer2.set(ownership.owned(), now)
    # and from layer 2's events:
    #   ProbeResult(address, macs)  -> ownership.probe_result(address, macs, now)
    #   Claimed(address, _, mac)    -> ownership.foreign_claim(address, mac, now)

Flush membership's datagrams after layer 2 was set: in an ordered hand-over the successor's gratuitous frames
leave first, then its claim, and on that the old owner falls silent.

Desired: after a snapshot call `replace(groups, now)`, for deltas `upsert` and then `remove`: an address that goes to a
group of another key has its owner still. When the first
snapshot is whole call `complete`: a group that comes later is a new one, which nobody has yet. Call it again after each
change: groups that are spread evenly are elected when all of it is known.
Shutdown: `ownership.leave(now)` and `membership.leave(now)`, run the loop until `HandedOver`, at most `LEAVE_WAIT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from metallb_speaker.announcer.layer2.api import OwnedGroup
from metallb_speaker.announcer.membership.api import Members
from metallb_speaker.announcer.membership.events import Event as MembershipEvent
from metallb_speaker.announcer.ownership.events import Event
from metallb_speaker.desired import Layer2Group


class Owner(Protocol):
    """The verbs of ownership. None blocks, none raises."""

    def replace(self, groups: Iterable[Layer2Group], now: float) -> None:
        """All groups, after a snapshot of Desired: what is not among them is given up."""

    def complete(self, now: float) -> None:
        """A snapshot or a change is whole. At the first call: all groups older than this process are known."""

    def upsert(self, group: Layer2Group, now: float) -> None:
        """One group is new or has changed."""

    def remove(self, key: str, now: float) -> None:
        """One group is gone."""

    def members(self, addresses: Mapping[str, tuple[str, ...]], now: float) -> None:
        """The members that the cluster lists, by node name, with the addresses of their nodes."""

    def neighbours(self) -> tuple[str, ...]:
        """MAC addresses of members that the wire alone tells of; `Recognised` says that there are more."""

    def follow(self, members: Members, now: float) -> list[MembershipEvent]:
        """Take in membership's events, and hand it what is to be sent. Call once per turn.

        Does what `on_deadline` would do, too. Gives the events that it took, to be logged.
        """

    def probe_result(self, address: str, macs: Iterable[str], now: float) -> None:
        """The wire's answer to a `Probe`: who holds `address` (none: silence)."""

    def foreign_claim(self, address: str, mac: str, now: float) -> None:
        """Somebody announced an address that this node owns (gratuitous ARP, unsolicited NA)."""

    def owned(self) -> Mapping[str, OwnedGroup]:
        """What this node owns now, for `Layer2.set`. Live: read it, do not keep it."""

    def key_of(self, address: str) -> str:
        """The key of the group that has `address`, which may be a key itself; "" for none."""

    def owner(self, key: str) -> str:
        """The node that this node believes to own `key`; "" for nobody: metrics, `/status`."""

    def deadline(self) -> float:
        """When `on_deadline` must be called next; `layer2.api.NEVER` if nothing is due."""

    def on_deadline(self, now: float) -> None:
        """Do what is due: take-overs that waited, claims that were not answered, probes."""

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""

    def leave(self, now: float) -> None:
        """Hand everything over; `HandedOver` follows, at the latest after `LEAVE_WAIT` seconds."""

    def stay(self, now: float) -> None:
        """Take `leave` back."""

    def status(self) -> dict[str, Any]:
        """For `/status`: owned groups, who owns the others, who is kept and why."""
