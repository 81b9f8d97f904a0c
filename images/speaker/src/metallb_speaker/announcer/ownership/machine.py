"""Ownership: from the groups of Desired and the members' standings to what this node answers for.

Every group is elected by the same rule on every node (`groups`), over the tiers of membership: settled members
first, then newcomers, then those who leave. What follows from a result is in `states`:

* Whose owner is dead, or that nobody had, is taken at once.
* What a live node holds is taken after `MOVE_GRACE`: the successor answers, announces, claims; then the other stops.
* What goes to another live node is offered to it (Handover), and answered for until its claim comes.

Between two who both own a group the claim of the newer view wins, then the election's order.
A node that membership gave up but that answers on the wire counts as alive (`wirecheck`).
`api.Owner` describes the verbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from metallb_speaker.announcer.layer2.api import NEVER, OwnedGroup
from metallb_speaker.announcer.membership import events as membership
from metallb_speaker.announcer.membership.api import Members
from metallb_speaker.announcer.membership.events import Standing, Tier
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership.events import (
    Acquired,
    Event,
    HandedOver,
    Kept,
    KeptEnded,
    Lost,
    Probe,
    Reassert,
    SplitBrain,
    Updated,
)
from metallb_speaker.announcer.ownership.groups import Entry, Groups
from metallb_speaker.announcer.ownership.outbox import Outbox
from metallb_speaker.announcer.ownership.report import describe, owned_group
from metallb_speaker.announcer.ownership.states import (
    ANSWERING,
    HOLD,
    LEAVE_WAIT,
    MAX_HOLD,
    MOVE_GRACE,
    MUTE_WAIT,
    YIELD_WAIT,
    Input,
    State,
    step,
)
from metallb_speaker.announcer.ownership.wirecheck import ADDRESSES, WAIT, Verdict, WireCheck
from metallb_speaker.desired import Layer2Group

#: A foreign claim or announcement of a group of ours is answered by ours at most this often, however many come.
REASSERT_EVERY = 0.2


class Ownership:
    """What one node owns."""

    def __init__(self, me: str, now: float) -> None:
        self.me = me
        self._groups = Groups()
        self._states: dict[str, State] = {}
        self._due: dict[str, float] = {}  # of PENDING and YIELDING
        self._owned: dict[str, OwnedGroup] = {}
        self._standings: Mapping[str, Standing] = {}
        self._ready = False
        self._tiers: dict[str, Tier] = {}  # as of the last evaluation
        self._generation = 0
        self._outbox = Outbox()
        self._wire = WireCheck(self._pick)
        self._wire_at = NEVER
        self._holds: dict[str, tuple[float, float]] = {}  # key -> (until, how long): yielded to a newer claim
        self._reasserted: dict[str, float] = {}
        self._leaving: float | None = None
        self._handed_over = False
        self._events: list[Event] = []

    # --- Desired ------------------------------------------------------------------------------------

    def replace(self, groups: Iterable[Layer2Group], now: float) -> None:
        """See `api.Owner.replace`."""
        fresh = {group.key: group for group in groups}
        for key in [key for key in self._groups.entries if key not in fresh]:
            self.remove(key, now)
        for group in fresh.values():
            self.upsert(group, now)

    def upsert(self, group: Layer2Group, now: float) -> None:
        """See `api.Owner.upsert`."""
        held = self._groups.entries.get(group.key)
        if held is not None and held.group == group:
            return
        entry = self._groups.put(group)
        if group.key in self._owned:
            changed = owned_group(group, check=True)
            if changed != self._owned[group.key]:
                self._owned[group.key] = changed
                self._events.append(Updated(group.key))
        self._evaluate(entry, now)

    def remove(self, key: str, now: float) -> None:
        """See `api.Owner.remove`."""
        entry = self._groups.entries.get(key)
        if entry is not None:
            self._apply(entry, Input.DROP, now, Lost(key, "serviceDeleted", "removed"))
            self._groups.remove(key)
            self._holds.pop(key, None)
            self._reasserted.pop(key, None)

    # --- membership ---------------------------------------------------------------------------------

    def follow(self, members: Members, now: float) -> list[membership.Event]:
        """See `api.Owner.follow`."""
        self._standings = members.view()
        basis, self._generation = self._generation, members.generation
        taken = members.events()
        touched: dict[str, None] = {}
        received: list[membership.Received] = []
        bereft: list[str] = []
        for event in taken:
            match event:
                case membership.Received():
                    received.append(event)
                case membership.Joined(name) | membership.Changed(name) | membership.Cleared(name):
                    if isinstance(event, membership.Joined) and name not in self._wire.kept():
                        bereft += self._disbelieve(name)
                    self._heard(name, now)
                    touched[name] = None
                case membership.Suspect(name):
                    self._wire.suspected(name, now)
                    touched[name] = None
                case membership.Failed(name):
                    self._wire.failed(name, now)
                    self._outbox.forget(name)
                    touched[name] = None
                case membership.Left(name):
                    self._unkeep(name)
                    self._outbox.forget(name)
                    touched[name] = None
                case _:
                    pass
        self._ask_wire(now)
        touched[self.me] = None
        if members.ready != self._ready:
            self._ready = members.ready
            self._evaluate_all(now)
        else:
            for name in touched:
                self._evaluate_touched(name, now)
            for key in bereft:
                self._evaluate(self._groups.entries[key], now)
        for message in received:
            self._receive(message.sender, message.message, basis, now)
        self.on_deadline(now)
        for out in self._outbox.flush(self._generation, now):
            members.send(out.to, out.message, now)
        return taken

    def _heard(self, name: str, now: float) -> None:
        standing = self._standings.get(name)
        if standing is not None and standing.cluster_only and standing.tier is not Tier.SILENT:
            self._wire.dead.discard(name)
            self._wire.listed(name, now)
        elif (standing is not None and standing.tier is not Tier.SILENT) or standing is None or standing.cluster_only:
            self._unkeep(name)

    def _disbelieve(self, name: str) -> list[str]:
        """A process that has just begun, or begun anew, holds nothing. The keys that it was believed to own."""
        keys = list(self._groups.owned_by(name))
        for key in keys:
            self._groups.believe(self._groups.entries[key], "")
        return keys

    def _unkeep(self, name: str) -> None:
        if self._wire.cleared(name):
            self._events.append(KeptEnded(name))

    def _tier(self, name: str) -> Tier:
        """Membership's, corrected by what the wire shows and by our own leaving."""
        standing = self._standings.get(name)
        tier = Tier.SILENT if standing is None else standing.tier
        if name == self.me:
            return Tier.LEAVING if self._leaving is not None else tier
        if tier is Tier.SILENT:
            return Tier.SETTLED if self._wire.holds(name) else tier
        return Tier.SILENT if name in self._wire.dead else tier

    # --- the wire --------------------------------------------------------------------------------------

    def _pick(self, node: str) -> tuple[str, ...]:
        """Addresses that `node` is believed to own and that would come to us if it were dead."""
        chosen: list[str] = []
        for key in self._groups.owned_by(node):
            entry = self._groups.entries[key]
            if entry.group.addresses and self._groups.elect(entry, self._tier, without=node) == self.me:
                chosen.append(entry.group.addresses[0].ip)
                if len(chosen) == ADDRESSES:
                    break
        return tuple(chosen)

    def _ask_wire(self, now: float) -> None:
        self._wire_at = NEVER
        ask, verdicts = self._wire.due(now)
        self._events += [Probe(address, WAIT) for address in ask]
        for node, verdict in verdicts:
            if verdict is Verdict.KEPT:
                address, mac = self._wire.evidence(node)
                self._events.append(Kept(node, address, mac))
            elif verdict is Verdict.ENDED:
                self._events.append(KeptEnded(node))
            self._evaluate_touched(node, now)
        self._wire_at = self._wire.deadline()

    def probe_result(self, address: str, macs: Iterable[str], now: float) -> None:
        """See `api.Owner.probe_result`. Without a known MAC of the silent node, any that is nobody else's will do."""
        asked = self._wire.asking(address)
        for mac in macs:
            holder = self._node_of(mac)
            for node in asked:
                standing = self._standings.get(node)
                known = standing is not None and bool(standing.macs)
                if holder == node or (not holder and not known):
                    self._wire.seen(node, address, mac, now)

    def foreign_claim(self, address: str, mac: str, now: float) -> None:
        """See `api.Owner.foreign_claim`."""
        key = self._groups.by_address.get(address)
        node = self._node_of(mac)
        if key is None or node == self.me:
            return
        entry = self._groups.entries[key]
        if not node:
            # Not a member that we know the MAC addresses of; while we wait for a successor it can only be that one.
            if self._states.get(key) is State.YIELDING:
                self._yield_to(entry, "", now)
            return
        standing = self._standings.get(node)
        silent = standing is None or standing.tier is Tier.SILENT or node in self._wire.dead
        if silent and self._wire.seen(node, address, mac, now):
            self._events.append(Kept(node, address, mac))
            self._evaluate_touched(node, now)
        state = self._states.get(key, State.IDLE)
        if state is State.YIELDING:
            self._yield_to(entry, node, now)
        elif state is State.OWNED:
            if self._groups.elect(entry, self._tier) != self.me:
                self._yield_to(entry, node, now)
            elif self._assert(key, node, now):
                self._events.append(Reassert(key, node))
        else:
            self._groups.believe(entry, node)

    def _assert(self, key: str, node: str, now: float) -> bool:
        """Say to `node` that `key` is ours, unless we did just now: two who are both sure must not make a storm."""
        if now - self._reasserted.get(key, -NEVER) < REASSERT_EVERY:
            return False
        self._reasserted[key] = now
        self._events.append(SplitBrain(key, node, yielded=False))
        self._outbox.claim(node, key, now)
        return True

    def _node_of(self, mac: str) -> str:
        """The member that announces with `mac`; "" if none does."""
        return next((s.name for s in self._standings.values() if mac in s.macs), "")

    # --- messages of members ---------------------------------------------------------------------------

    def _receive(self, sender: str, message: Claim | Released | Handover, basis: int, now: float) -> None:
        for key in message.keys:
            entry = self._groups.entries.get(key)
            match message:
                case Claim(generation):
                    if entry is None:
                        self._outbox.released(sender, key)
                    else:
                        self._claimed(entry, sender, generation, basis, now)
                case Released():
                    self._outbox.answered(sender, key)
                    if entry is not None and self._states.get(key) is State.YIELDING and self._leaving is None:
                        # It is alive and says that it has not taken over: somebody must answer meanwhile.
                        self._due[key] = now + YIELD_WAIT
                case Handover():
                    self._offered(entry, key, sender, now)

    def _claimed(self, entry: Entry, sender: str, generation: int, basis: int, now: float) -> None:
        key = entry.group.key
        state = self._states.get(key, State.IDLE)
        if state is State.OWNED:
            ours = self._ahead(entry, sender)
            if generation < basis or (generation == basis and ours):
                self._assert(key, sender, now)
                return
            if ours:
                # Newer, but our own view still elects us: yield, and do not claim it back at once.
                length = min(MAX_HOLD, 2 * self._holds.get(key, (0.0, HOLD / 2))[1])
                self._holds[key] = (now + length, length)
            self._events.append(SplitBrain(key, sender, yielded=True))
        if state in ANSWERING:
            self._yield_to(entry, sender, now)
            if key in self._holds:
                self._due[key] = self._holds[key][0]
        else:
            self._groups.believe(entry, sender)
        self._outbox.released(sender, key)

    def _ahead(self, entry: Entry, other: str) -> bool:
        """Whether the election, between us and `other` alone, is ours."""
        mine, theirs = self._tier(self.me), self._tier(other)
        if mine != theirs:
            return mine < theirs
        winner = self._groups.elect(entry, lambda name: mine if name in (self.me, other) else Tier.SILENT)
        return winner == self.me

    def _offered(self, entry: Entry | None, key: str, sender: str, now: float) -> None:
        """`sender` would like to be rid of `key`."""
        state = self._states.get(key, State.IDLE)
        if entry is not None and state is State.PENDING:
            self._groups.believe(entry, sender)
            self._apply(entry, Input.WIN, now)
        elif entry is not None and state is State.OWNED:
            self._outbox.claim(sender, key, now)
        else:
            self._outbox.released(sender, key)

    def _yield_to(self, entry: Entry, node: str, now: float) -> None:
        self._apply(entry, Input.CLAIMED, now, Lost(entry.group.key, "notOwner", "claimed"))
        self._groups.believe(entry, node)

    # --- election and transitions ------------------------------------------------------------------------

    def _evaluate_all(self, now: float) -> None:
        self._tiers = {name: self._tier(name) for name in (*self._standings, self.me)}
        for entry in list(self._groups.entries.values()):
            self._evaluate(entry, now)

    def _evaluate_touched(self, node: str, now: float) -> None:
        """Elect again where it can matter that `node`'s tier has changed, if it has."""
        tier, before = self._tier(node), self._tiers.get(node, Tier.SILENT)
        self._tiers[node] = tier
        if tier is before:
            return
        worse = tier > before
        for key in self._groups.touched(node, self._tier):
            entry = self._groups.entries[key]
            # A node that got worse changes nothing where it had not won.
            if worse and node not in (entry.winner, entry.owner) and key not in self._due:
                continue
            self._evaluate(entry, now)

    def _evaluate(self, entry: Entry, now: float) -> None:
        """Elect, and do what follows."""
        group, key = entry.group, entry.group.key
        entry.winner = ""
        if not self._ready or self._handed_over:
            self._apply(entry, Input.DROP, now, Lost(key, "notOwner", "stopped"))
            return
        winner = entry.winner = self._groups.elect(entry, self._tier)
        if not winner:
            self._apply(entry, Input.DROP, now, Lost(key, group.reason or "notOwner", "nobody"))
            self._groups.believe(entry, "")
        elif winner != self.me:
            self._holds.pop(key, None)
            self._apply(entry, Input.LOSE, now, Lost(key, "notOwner"), winner)
            if self._states.get(key) is not State.YIELDING:
                self._groups.believe(entry, winner)
        elif key in self._holds and now < self._holds[key][0]:
            self._due[key] = self._holds[key][0]
        else:
            previous = entry.owner
            willing = previous not in group.candidates or self._tier(previous) >= Tier.LEAVING
            free = not previous or previous == self.me or willing
            self._apply(entry, Input.WIN if free else Input.WAIT, now)

    def _apply(self, entry: Entry, event: Input, now: float, lost: Lost | None = None, successor: str = "") -> None:
        """Make one transition, and do what belongs to it."""
        key = entry.group.key
        old = self._states.get(key, State.IDLE)
        new = step(old, event)
        if new is State.IDLE:
            self._states.pop(key, None)
        else:
            self._states[key] = new
        if new is State.YIELDING:
            self._outbox.unclaim(key)
            self._outbox.handover(successor, key, now)
            if old is not State.YIELDING:
                self._due[key] = now + self._patience(successor)
        elif new is State.PENDING:
            self._due.setdefault(key, now + MOVE_GRACE)
        else:
            self._due.pop(key, None)
            if old is State.YIELDING:
                self._outbox.withdraw(key)
        if new is State.OWNED and old is not State.OWNED:
            self._take(entry, old, now)
        elif old in ANSWERING and new not in ANSWERING:
            del self._owned[key]
            self._outbox.unclaim(key)
            self._events.append(lost or Lost(key, "notOwner"))

    def _patience(self, successor: str) -> float:
        """How long to answer for a successor's sake."""
        standing = self._standings.get(successor)
        mute = standing is None or standing.cluster_only or standing.tier is Tier.SILENT
        return MUTE_WAIT if mute else LEAVE_WAIT if self._leaving is not None else YIELD_WAIT

    def _take(self, entry: Entry, old: State, now: float) -> None:
        key, previous = entry.group.key, entry.owner
        live = previous not in ("", self.me) and self._tier(previous) is not Tier.SILENT
        if old is not State.YIELDING:
            # Whoever is known to answer still, or to have answered until now by us, need not be looked for.
            self._owned[key] = owned_group(entry.group, check=not (live or previous == self.me))
            self._events.append(Acquired(key, "" if previous == self.me else previous))
        if live:
            self._outbox.claim(previous, key, now)
        self._groups.believe(entry, self.me)

    # --- time ----------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """See `api.Owner.deadline`."""
        due = min(self._wire_at, self._outbox.deadline())
        if self._due:
            due = min(due, *self._due.values())
        if self._leaving is not None and not self._handed_over:
            due = min(due, self._leaving)
        return due

    def on_deadline(self, now: float) -> None:
        """See `api.Owner.on_deadline`."""
        if self._leaving is not None and not self._handed_over and now >= self._leaving:
            self._finish_leaving(now)
        if now >= self._wire_at:
            self._ask_wire(now)
        for key in [key for key, due in self._due.items() if due <= now]:
            del self._due[key]
            entry = self._groups.entries[key]
            if self._states.get(key) is State.PENDING:
                self._apply(entry, Input.DUE, now)
            elif self._states.get(key) is State.YIELDING:
                self._apply(entry, Input.DUE, now, Lost(key, "notOwner", "timeout"))
                self._groups.believe(entry, self._groups.elect(entry, self._tier))
            else:
                self._evaluate(entry, now)  # a hold is over
        if self._leaving is not None and not self._handed_over:
            self._finish_leaving(now)

    def _finish_leaving(self, now: float) -> None:
        left = [key for key, state in self._states.items() if state is State.YIELDING]
        if left and self._leaving is not None and now < self._leaving:
            return
        self._handed_over = True
        for key in list(self._owned):
            self._apply(self._groups.entries[key], Input.DROP, now, Lost(key, "notOwner", "left"))
        self._events.append(HandedOver(tuple(left)))

    # --- the rest --------------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """See `api.Owner.leave`."""
        if self._leaving is None:
            self._leaving = now + LEAVE_WAIT
            self._evaluate_all(now)

    def stay(self, now: float) -> None:
        """See `api.Owner.stay`."""
        if not self._handed_over:
            self._leaving = None
            self._evaluate_all(now)

    def owned(self) -> Mapping[str, OwnedGroup]:
        """See `api.Owner.owned`."""
        return self._owned

    def owner(self, key: str) -> str:
        """See `api.Owner.owner`."""
        entry = self._groups.entries.get(key)
        return entry.owner if entry else ""

    def events(self) -> list[Event]:
        """See `api.Owner.events`."""
        taken, self._events = self._events, []
        return taken

    def status(self) -> dict[str, Any]:
        """See `api.Owner.status`."""
        return describe(self._groups, self._states, self._wire, self._ready, self._leaving is not None)
