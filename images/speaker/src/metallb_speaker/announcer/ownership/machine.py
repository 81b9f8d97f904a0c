"""Ownership: from the groups of Desired and the members' standings to what this node answers for.

Every group is elected by the same rule on every node (`groups`), over the tiers of membership: settled members
first, then newcomers, then those who leave. What follows from a result is in `states`:

* Whose owner is dead, or that nobody had, is taken at once.
* What a live node holds is taken after `MOVE_GRACE`: the successor answers, announces, claims; then the other stops.
* What goes to another live node is offered to it (Handover), and answered for until its claim comes.

Of a group that was there before this node looked, the owner is not known: it is presumed to be the one that would
have it without us. Two who both own a group settle it by `claims`; a node that membership gave up but that answers
on the wire counts as alive (`wirecheck`). `book` holds the state. `api.Owner` describes the verbs.

A node that thousands of groups depend on may come or go: they are elected in slices, one per turn, so that questions
are answered and timers kept meanwhile. Whatever is decided for a group, is so by what is known in its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from metallb_speaker.announcer.layer2.api import NEVER, OwnedGroup
from metallb_speaker.announcer.membership import events as membership
from metallb_speaker.announcer.membership.api import Members
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.ownership.book import Book
from metallb_speaker.announcer.ownership.claims import Claims
from metallb_speaker.announcer.ownership.events import (
    Event,
    HandedOver,
    Kept,
    KeptEnded,
    Lost,
    Probe,
    Reassert,
    Recognised,
    Updated,
)
from metallb_speaker.announcer.ownership.groups import Entry
from metallb_speaker.announcer.ownership.report import describe, owned_group
from metallb_speaker.announcer.ownership.states import LEAVE_WAIT, Input, State
from metallb_speaker.announcer.ownership.wirecheck import WAIT, Verdict
from metallb_speaker.desired import Layer2Group

#: Groups that are elected in one turn: about a millisecond of work.
SLICE = 48


class Ownership:
    """What one node owns."""

    def __init__(self, me: str, now: float) -> None:
        self.me = me
        self._book = Book(me)
        self._claims = Claims(self._book, self._evaluate_touched)
        self._ready = False
        self._complete = False  # whether the groups that were there at the start are known
        self._tiers: dict[str, Tier] = {}  # as of the last evaluation
        self._generation = 0
        self._wire_at = NEVER
        self._handed_over = False
        self._waiting: dict[str, None] = {}  # groups to be elected anew
        self._left = SLICE  # how many more in this turn

    # --- Desired ------------------------------------------------------------------------------------

    def replace(self, groups: Iterable[Layer2Group], now: float) -> None:
        """See `api.Owner.replace`."""
        fresh = {group.key: group for group in groups}
        for group in fresh.values():
            self.upsert(group, now)
        # Last, so that an address that goes from one group to another has the owner that it had.
        for key in [key for key in self._book.groups.entries if key not in fresh]:
            self.remove(key, now)
        self._book.groups.complete()
        self._book.groups.spread.complete()
        self._respread(now)

    def complete(self, now: float) -> None:
        """See `api.Owner.complete`."""
        self._complete = True
        self._book.groups.complete()
        self._book.groups.spread.complete()
        self._respread(now)

    def _respread(self, now: float) -> None:
        """Elect anew in pools that are spread evenly and that have changed: only when a change is whole."""
        for pool in self._book.groups.spread.due(now):
            self._elect_anew(pool.kinds, now)

    def upsert(self, group: Layer2Group, now: float) -> None:
        """See `api.Owner.upsert`."""
        book = self._book
        held = book.groups.entries.get(group.key)
        if held is not None and held.group == group:
            return
        before = book.groups.before(group)
        entry = book.groups.put(group)
        if held is None:
            entry.unseen = not self._complete
        if before:
            entry.heir_of = {ip: owner for ip, (_, owner) in before.items()}
            if held is None:
                book.inherit(entry, before, now)
            elif group.key in book.owned:
                book.claim_inherited(entry, now)
        if group.key in book.owned:
            changed = owned_group(group, check=True)
            if changed != book.owned[group.key]:
                book.owned[group.key] = changed
                book.events.append(Updated(group.key))
        if not group.spread:  # else when the whole change is known
            self._evaluate(entry, now)

    def remove(self, key: str, now: float) -> None:
        """See `api.Owner.remove`."""
        entry = self._book.groups.entries.get(key)
        if entry is not None:
            self._book.apply(entry, Input.DROP, now, Lost(key, "serviceDeleted", "removed"))
            self._book.groups.remove(key)
            self._claims.forget(key)

    # --- membership ---------------------------------------------------------------------------------

    def members(self, addresses: Mapping[str, tuple[str, ...]], now: float) -> None:
        """See `api.Owner.members`."""
        self._book.neighbours.set({name: ips for name, ips in addresses.items() if name != self.me})
        self._book.neighbours.follow(self._book.standings)
        self._ask_wire(now)

    def follow(self, members: Members, now: float) -> list[membership.Event]:
        """See `api.Owner.follow`."""
        book = self._book
        self._left = SLICE
        book.standings = members.view()
        self._claims.cut_off = members.cut_off(now)
        basis, self._generation = self._generation, members.generation
        relinked = book.groups.relink(book.standings) if basis != self._generation else []
        taken = members.events()
        if any(not isinstance(event, membership.Received) for event in taken):
            book.neighbours.follow(book.standings)
        touched: dict[str, None] = {}
        received: list[membership.Received] = []
        bereft: list[str] = []
        stopped = False
        for event in taken:
            match event:
                case membership.Received():
                    received.append(event)
                case membership.Joined(name) | membership.Changed(name) | membership.Cleared(name):
                    # One that was kept goes on as it was, unless it says that it begins anew.
                    kept = name in book.wire.kept() and book.tier(name) is not Tier.NEW
                    if isinstance(event, membership.Joined) and not kept:
                        bereft += self._disbelieve(name)
                    self._heard(name, now)
                    touched[name] = None
                case membership.Suspect(name):
                    book.wire.suspected(name, now)
                    touched[name] = None
                case membership.Failed(name):
                    book.wire.failed(name, now)
                    book.outbox.forget(name)
                    touched[name] = None
                case membership.Left(name):
                    self._unkeep(name)
                    self._claims.gone(name, now)
                    book.outbox.forget(name)
                    touched[name] = None
                case membership.Stopped():
                    stopped = True
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
            self._elect_anew((*bereft, *(entry.group.key for entry in relinked)), now)
        for message in received:
            self._claims.receive(message.sender, message.message, basis, now)
        if stopped:
            # Nobody could be asked whether we were replaced, or we would own nothing now: heirs object to our frames.
            book.events += [Reassert(key, self.me) for key in book.owned]
        self._on_time(now)
        for out in book.outbox.flush(self._generation, now, book.groups.entries):
            members.send(out.to, out.message, now)
        for name in self._claims.calls:
            members.call(name, now)
        self._claims.calls.clear()
        return taken

    def _heard(self, name: str, now: float) -> None:
        standing = self._book.standings.get(name)
        if standing is not None and standing.cluster_only and standing.tier is not Tier.SILENT:
            self._book.wire.dead.discard(name)
            self._book.wire.listed(name, now)
        elif (standing is not None and standing.tier is not Tier.SILENT) or standing is None or standing.cluster_only:
            self._unkeep(name)
            self._claims.back(name)

    def _disbelieve(self, name: str) -> list[str]:
        """A process that has just begun, or begun anew, holds nothing. The keys that it was believed to own."""
        keys = list(self._book.groups.owned_by(name))
        for key in keys:
            self._book.groups.believe(self._book.groups.entries[key], "")
        return keys

    def _unkeep(self, name: str) -> None:
        if self._book.wire.cleared(name):
            self._book.events.append(KeptEnded(name))

    # --- the wire --------------------------------------------------------------------------------------

    def _ask_wire(self, now: float) -> None:
        self._wire_at = NEVER
        wire, events = self._book.wire, self._book.events
        ask, verdicts = wire.due(now)
        events += [Probe(address, WAIT) for address in (*ask, *self._book.neighbours.due(now))]
        for node, verdict in verdicts:
            if verdict is Verdict.KEPT:
                address, mac = wire.evidence(node)
                events.append(Kept(node, address, mac))
            else:
                self._claims.gone(node, now)
                if verdict is Verdict.ENDED:
                    events.append(KeptEnded(node))
            self._evaluate_touched(node, now)
        self._wire_at = min(wire.deadline(), self._book.neighbours.deadline())

    def probe_result(self, address: str, macs: Iterable[str], now: float) -> None:
        """See `api.Owner.probe_result`."""
        macs = tuple(macs)
        if node := self._book.neighbours.answered(address, macs):
            self._book.events.append(Recognised(node, self._book.neighbours.macs(node)))
        self._claims.probe_result(address, macs, now)

    def foreign_claim(self, address: str, mac: str, now: float) -> None:
        """See `api.Owner.foreign_claim`."""
        self._claims.foreign_claim(address, mac, now)

    # --- election and transitions ------------------------------------------------------------------------

    def _evaluate_all(self, now: float) -> None:
        book = self._book
        self._tiers = {name: book.tier(name) for name in (*book.standings, self.me)}
        for entry in book.groups.entries.values():
            entry.unseen |= self._ready and not entry.owner
        if not self._ready:  # who may own nothing falls silent before it answers once more
            self._left = len(book.groups.entries) + len(self._waiting)
        self._elect_anew(book.groups.entries, now)

    def _evaluate_touched(self, node: str, now: float) -> None:
        """Elect again where it can matter that `node`'s tier has changed, if it has."""
        book = self._book
        tier, before = book.tier(node), self._tiers.get(node, Tier.SILENT)
        self._tiers[node] = tier
        if tier is before:
            return
        keys = book.groups.touched(node, book.tier)
        if tier > before:
            keys = [key for key in keys if self._can_lose(book.groups.entries[key], node)]
        self._elect_anew(keys, now)

    def _can_lose(self, entry: Entry, node: str) -> bool:
        """Whether a worse tier of `node` matters: not where it had not won, but where addresses are spread evenly."""
        return bool(entry.group.spread) or node in (entry.winner, entry.owner) or entry.group.key in self._book.due

    def _elect_anew(self, keys: Iterable[str], now: float) -> None:
        """Elect these groups again: as many as this turn may, the others in the next ones."""
        self._waiting.update(dict.fromkeys(keys))
        self._work(now)

    def _work(self, now: float) -> None:
        turn = list(islice(self._waiting, self._left))
        self._left -= len(turn)
        for key in turn:
            del self._waiting[key]
        for key in turn:
            if (entry := self._book.groups.entries.get(key)) is not None:
                self._evaluate(entry, now)

    def _evaluate(self, entry: Entry, now: float) -> None:
        """Elect, and do what follows."""
        book, group, key = self._book, entry.group, entry.group.key
        entry.winner = ""
        if not self._ready or self._handed_over:
            book.apply(entry, Input.DROP, now, Lost(key, "notOwner", "stopped"))
            return
        if group.spread and not book.groups.spread.pools[group.spread].knows(key):
            return  # it came just now: `_respread` follows
        winner = entry.winner = book.elect(entry)
        if not winner:
            book.apply(entry, Input.DROP, now, Lost(key, group.reason or "notOwner", "nobody"))
            book.believe(entry, "", now)
        elif winner != self.me:
            self._claims.holds.pop(key, None)
            book.apply(entry, Input.LOSE, now, Lost(key, "notOwner"), winner)
            if book.state(key) is not State.YIELDING:
                book.believe(entry, winner, now)
        elif until := self._claims.waits(key, now):
            book.due[key] = until
        else:
            if entry.unseen and not entry.owner:
                book.believe(entry, self._presumed(entry), now)
            previous = entry.owner
            willing = previous not in group.candidates or book.tier(previous) >= Tier.LEAVING
            free = not previous or previous == self.me or willing
            book.apply(entry, Input.WIN if free else Input.WAIT, now)
        entry.unseen = False

    def _presumed(self, entry: Entry) -> str:
        """Who has it, of a group that is older than our look at it: the settled one that would, without us."""
        name = self._book.elect(entry, without=self.me)
        return name if name and self._book.tier(name) is Tier.SETTLED else ""

    # --- time ----------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """See `api.Owner.deadline`."""
        book = self._book
        if self._waiting:
            return -NEVER
        due = min(self._wire_at, book.outbox.deadline(), book.groups.spread.deadline())
        if book.due:
            due = min(due, *book.due.values())
        if book.returned:
            due = min(due, *book.returned.values())
        if book.leaving is not None and not self._handed_over:
            due = min(due, book.leaving)
        return due

    def on_deadline(self, now: float) -> None:
        """See `api.Owner.on_deadline`."""
        self._left = SLICE
        self._on_time(now)

    def _on_time(self, now: float) -> None:
        book = self._book
        self._work(now)
        if book.leaving is not None and not self._handed_over and now >= book.leaving:
            self._finish_leaving(now)
        if now >= self._wire_at:
            self._ask_wire(now)
        self._respread(now)
        for node in [node for node, until in book.returned.items() if until <= now]:
            del book.returned[node]
            self._evaluate_touched(node, now)
        for key in [key for key, due in book.due.items() if due <= now][:SLICE]:
            book.due.pop(key, None)
            entry = book.groups.entries[key]
            if book.state(key) is State.PENDING:
                book.apply(entry, Input.DUE, now)
            elif book.state(key) is State.YIELDING:
                book.apply(entry, Input.DUE, now, Lost(key, "notOwner", "timeout"))
                book.believe(entry, book.elect(entry), now)
            else:
                self._evaluate(entry, now)  # a hold is over
        if book.leaving is not None and not self._handed_over:
            self._finish_leaving(now)

    def _finish_leaving(self, now: float) -> None:
        book = self._book
        left = [key for key, state in book.states.items() if state is State.YIELDING]
        if (left or self._waiting) and book.leaving is not None and now < book.leaving:
            return
        self._handed_over = True
        for key in list(book.owned):
            book.apply(book.groups.entries[key], Input.DROP, now, Lost(key, "notOwner", "left"))
        book.events.append(HandedOver(tuple(left)))

    # --- the rest --------------------------------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """See `api.Owner.leave`."""
        if self._book.leaving is None:
            self._book.leaving = now + LEAVE_WAIT
            self._left = SLICE
            self._evaluate_all(now)

    def stay(self, now: float) -> None:
        """See `api.Owner.stay`."""
        if not self._handed_over:
            self._book.leaving = None
            self._left = SLICE
            self._evaluate_all(now)

    def owned(self) -> Mapping[str, OwnedGroup]:
        """See `api.Owner.owned`."""
        return self._book.owned

    def key_of(self, address: str) -> str:
        """See `api.Owner.key_of`."""
        entry = self._book.groups.find(address)
        return entry.group.key if entry else ""

    def owner(self, key: str) -> str:
        """See `api.Owner.owner`."""
        entry = self._book.groups.entries.get(key)
        return entry.owner if entry else ""

    def events(self) -> list[Event]:
        """See `api.Owner.events`."""
        taken, self._book.events = self._book.events, []
        return taken

    def neighbours(self) -> tuple[str, ...]:
        """See `api.Owner.neighbours`."""
        return self._book.neighbours.known()

    def status(self) -> dict[str, Any]:
        """See `api.Owner.status`."""
        book = self._book
        leaving = book.leaving is not None
        return describe(book.groups, book.states, book.wire, book.neighbours, ready=self._ready, leaving=leaving)
