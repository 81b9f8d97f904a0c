"""What this node holds: the groups, their states, and the one place where a state changes.

`machine` decides what happens to a group, `claims` what another node's word for it is worth; both act through
`Book.apply`, so that whatever belongs to a transition is done with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from metallb_speaker.announcer.layer2.api import OwnedGroup
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.ownership.events import Acquired, Event, Lost
from metallb_speaker.announcer.ownership.groups import Entry, Groups
from metallb_speaker.announcer.ownership.neighbours import Neighbours
from metallb_speaker.announcer.ownership.outbox import Outbox
from metallb_speaker.announcer.ownership.report import owned_group
from metallb_speaker.announcer.ownership.states import (
    ANSWERING,
    LEAVE_WAIT,
    MOVE_GRACE,
    MUTE_WAIT,
    YIELD_WAIT,
    Input,
    State,
    step,
)
from metallb_speaker.announcer.ownership.wirecheck import ADDRESSES, OTHERS, WireCheck

NEVER = float("inf")


class Book:
    """The groups of one node. Only `machine` and `claims` write it."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.groups = Groups()
        self.states: dict[str, State] = {}
        self.due: dict[str, float] = {}  # of PENDING and YIELDING, and of holds
        self.owned: dict[str, OwnedGroup] = {}
        self.taken_at: dict[str, float] = {}  # when each owned group was taken
        self.standings: Mapping[str, Standing] = {}
        self.neighbours = Neighbours()
        self.outbox = Outbox()
        self.wire = WireCheck(self._pick)
        self.leaving: float | None = None
        self.returned: dict[str, float] = {}  # nodes that the wire alone shows again -> until when they count as new
        self.events: list[Event] = []

    def state(self, key: str) -> State:
        return self.states.get(key, State.IDLE)

    def silent(self, name: str) -> bool:
        """Whether membership does not hear `name`, whatever the wire shows."""
        standing = self.standings.get(name)
        return standing is None or standing.tier is Tier.SILENT

    def tier(self, name: str) -> Tier:
        """Membership's, corrected by what the wire shows and by our own leaving."""
        standing = self.standings.get(name)
        tier = Tier.SILENT if standing is None else standing.tier
        if name == self.me:
            return Tier.LEAVING if self.leaving is not None else tier
        if tier is Tier.SILENT:
            tier = Tier.SETTLED if self.wire.holds(name) else tier
        elif name in self.wire.dead:
            return Tier.SILENT
        return max(tier, Tier.NEW) if name in self.returned else tier

    def macs(self, name: str) -> tuple[str, ...]:
        """The MAC addresses of a node's interfaces, by its own word, else by the wire's."""
        standing = self.standings.get(name)
        return (standing.macs if standing is not None else ()) or self.neighbours.macs(name)

    def elect(self, entry: Entry, without: str = "") -> str:
        """The winner as things stand; "" for nobody. `without` counts as gone."""
        return self.groups.elect(entry, self.tier, without)

    def _pick(self, node: str) -> tuple[str, ...]:
        """Addresses that `node` is believed to own and that would come to us if it were dead; else any one of them.

        Of whom nothing would come to us we have to know all the same whether it is alive: it may be another's heir.
        """
        chosen: list[str] = []
        other = ""
        for key in self.groups.owned_by(node):
            entry = self.groups.entries[key]
            if not entry.group.addresses:
                continue
            if self.elect(entry, without=node) == self.me:
                chosen.append(entry.group.addresses[0].ip)
                if len(chosen) == ADDRESSES:
                    break
            elif not other and self.me in entry.group.nodes:
                other = entry.group.addresses[0].ip
        if not chosen and other and (self.wire.goes_on(node) or len(self.wire) < OTHERS):
            chosen = [other]
        return tuple(chosen)

    def apply(self, entry: Entry, event: Input, now: float, lost: Lost | None = None, successor: str = "") -> None:
        """Make one transition, and do what belongs to it."""
        key = entry.group.key
        old = self.states.get(key, State.IDLE)
        new = step(old, event)
        if new is State.IDLE:
            self.states.pop(key, None)
        else:
            self.states[key] = new
        if new is State.YIELDING:
            self._unclaim(entry)
            self.outbox.handover(successor, key, now)
            if old is not State.YIELDING:
                self.due[key] = now + self._patience(successor)
        elif new is State.PENDING:
            self.due.setdefault(key, now + MOVE_GRACE)
        else:
            self.due.pop(key, None)
            if old is State.YIELDING:
                self.outbox.withdraw(key)
        if new is State.OWNED and old is not State.OWNED:
            self._take(entry, old, now)
        elif old in ANSWERING and new not in ANSWERING:
            del self.owned[key]
            self.taken_at.pop(key, None)
            self._unclaim(entry)
            self.events.append(lost or Lost(key, "notOwner"))

    def _unclaim(self, entry: Entry) -> None:
        self.outbox.unclaim(entry.group.key)
        for address in entry.group.addresses:
            if address.ip not in self.groups.entries:  # else it is the key of a group of its own
                self.outbox.unclaim(address.ip)

    def believe(self, entry: Entry, owner: str, now: float) -> None:
        """Note who owns the group; "" for nobody."""
        if owner != entry.owner:
            self.groups.believe(entry, owner)
            if owner:
                self.wire.owns(owner, now)

    def yield_to(self, entry: Entry, node: str, now: float) -> None:
        """`node` owns the group, by its claim or by its frames."""
        self.apply(entry, Input.CLAIMED, now, Lost(entry.group.key, "notOwner", "claimed"))
        self.believe(entry, node, now)

    def _patience(self, successor: str) -> float:
        """How long to answer for a successor's sake."""
        standing = self.standings.get(successor)
        mute = standing is None or standing.cluster_only or standing.tier is Tier.SILENT
        return MUTE_WAIT if mute else LEAVE_WAIT if self.leaving is not None else YIELD_WAIT

    def _take(self, entry: Entry, old: State, now: float) -> None:
        key, previous = entry.group.key, entry.owner
        live = previous not in ("", self.me) and self.tier(previous) is not Tier.SILENT
        if old is not State.YIELDING:
            # Whoever is known to answer still, or to have answered until now by us, need not be looked for.
            # (What is new in a group beside such addresses is looked for within seconds, as every address is.)
            self.owned[key] = owned_group(entry.group, check=not (live or previous == self.me))
            self.taken_at[key] = now
            self.events.append(Acquired(key, "" if previous == self.me else previous))
        if live:
            self.outbox.claim(previous, key, now)
        self.claim_inherited(entry, now)
        self.groups.believe(entry, self.me)

    def claim_inherited(self, entry: Entry, now: float) -> None:
        """Say, once, to those who had addresses of the group under another key that these are ours: they may still."""
        for ip, node in entry.heir_of.items():
            ours = ip != entry.group.key and self.groups.by_address.get(ip) == entry.group.key
            if ours and node not in ("", self.me) and self.tier(node) is not Tier.SILENT:
                self.outbox.claim(node, ip, now)
        entry.heir_of = {}

    def inherit(self, entry: Entry, before: Mapping[str, tuple[str, str]], now: float) -> None:
        """A new group has addresses of others (`Groups.before`): it is moved from their owner in order.

        Where that is us, we answer for all of it, until its winner does.
        """
        key, owner = next((found for found in before.values() if found[1]), ("", ""))
        if owner == self.me and self.state(key) not in ANSWERING:
            return
        self.groups.believe(entry, owner)
        if owner == self.me:
            self.apply(entry, Input.WIN, now)
