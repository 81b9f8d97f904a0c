"""What another node's word is worth: claims by message, and announcements seen on the wire.

Two who both own a group, and hear each other, settle it by the generation of the view that each claim rests on,
then by the order of election, or by their names where each elects itself, because what is desired has not reached
one of them yet. Nodes may hold an address by different keys, while a change that joins or parts Services has not
reached all of them. So a claim names the key, and where it matters the other addresses, too: these by a generation that
is one higher, since the group that has more of them goes before. Who has that address by another key, too, leaves the
one out. Towards a node that membership does not hear there is only the wire:

* Membership is asked to call it at once: where UDP works, that ends the matter within a round trip, for whoever
  was cut off or stopped learns that it was replaced, and gives up all that it has.
* What we took from it, or have had since it fell silent, stays ours: that is a stale owner which has come back, and
  to fall silent for its sake would leave nobody. Our gratuitous frames put right what its own have changed.
* What we have had for longer than it is gone, we give up, if we were cut off: then we are the stale one.
* Where both go on for CONTEST seconds, UDP is blocked, and the order of election decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership.events import Tier
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership.book import NEVER, Book
from metallb_speaker.announcer.ownership.events import Kept, Reassert, SplitBrain
from metallb_speaker.announcer.ownership.groups import Entry
from metallb_speaker.announcer.ownership.states import (
    ANSWERING,
    CONTEST,
    CONTEST_FORGET,
    DISPUTE,
    HOLD,
    MAX_HOLD,
    RETURN_WAIT,
    YIELD_WAIT,
    Input,
    State,
)

#: A foreign claim or announcement of a group of ours is answered by ours at most this often, however many come.
REASSERT_EVERY = 0.2
#: Dead nodes that are remembered: as many as membership knows. In a cluster that makes and drops nodes there is no end.
MAX_GONE = 1024


class Claims:
    """See the module. `touch(node, now)`: a node's tier may have changed, elect again."""

    def __init__(self, book: Book, touch: Callable[[str, float], None]) -> None:
        self._book, self._touch = book, touch
        self.cut_off = False  # whether we may be the one that was cut off, by membership's own impression
        self.calls: dict[str, None] = {}  # silent nodes that show themselves: for `Members.call`
        self.holds: dict[str, tuple[float, float]] = {}  # key -> (until, how long): yielded to a newer claim
        self.conceded: dict[str, tuple[str, float]] = {}  # key -> (a node heard on the wire alone, until)
        self._gone_at: dict[str, float] = {}  # node -> when it was found dead
        self._reasserted: dict[str, float] = {}
        self._contested: dict[str, dict[str, tuple[float, float]]] = {}  # key -> by whom -> (since, last)

    # --- what the machine tells -----------------------------------------------------------------------

    def gone(self, node: str, now: float) -> None:
        """`node` is dead, by membership and by the wire."""
        self._gone_at.pop(node, None)
        self._gone_at[node] = now
        if len(self._gone_at) > MAX_GONE:
            del self._gone_at[next(iter(self._gone_at))]
        self._book.returned.pop(node, None)
        self._forgive(node)

    def back(self, node: str) -> None:
        """`node` is heard by membership."""
        self._gone_at.pop(node, None)
        self._book.returned.pop(node, None)
        self._forgive(node)

    def forget(self, key: str) -> None:
        """The group is gone."""
        self.holds.pop(key, None)
        self.conceded.pop(key, None)
        self._reasserted.pop(key, None)
        self._contested.pop(key, None)

    def waits(self, key: str, now: float) -> float:
        """Until when this node does not take `key`, though elected; 0.0 if it may."""
        until, _ = self.holds.get(key, (0.0, 0.0))
        node, until_conceded = self.conceded.get(key, ("", 0.0))
        if node and self._book.tier(node) is not Tier.SILENT:
            until = max(until, until_conceded)
        return until if now < until else 0.0

    def _forgive(self, node: str) -> None:
        for key in [key for key, (other, _) in self.conceded.items() if other == node]:
            del self.conceded[key]

    # --- the wire ---------------------------------------------------------------------------------------

    def node_of(self, mac: str) -> str:
        """The member that announces with `mac`; "" if none does."""
        told = next((s.name for s in self._book.standings.values() if mac in s.macs), "")
        return told or self._book.neighbours.node_of(mac)

    def probe_result(self, address: str, macs: Iterable[str], now: float) -> None:
        """See `api.Owner.probe_result`. Without a known MAC of the silent node, any that is nobody else's will do."""
        asked = self._book.wire.asking(address)
        for mac in macs:
            holder = self.node_of(mac)
            for node in asked:
                if holder == node or (not holder and not self._book.macs(node)):
                    self._book.wire.seen(node, address, mac, now)

    def foreign_claim(self, address: str, mac: str, now: float) -> None:
        """See `api.Owner.foreign_claim`."""
        book = self._book
        key = book.groups.by_address.get(address)
        node = self.node_of(mac)
        if key is None or node == book.me:
            return
        entry, state = book.groups.entries[key], book.state(key)
        if not node:
            # Not a member that we know the MAC addresses of; while we wait for a successor it can only be that one.
            if state is State.YIELDING:
                successor = book.elect(entry)
                book.yield_to(entry, "" if successor == book.me else successor, now)
                book.wire.shown(successor, address, mac, now)
        elif book.tier(node) is Tier.SILENT or node in book.returned:
            self.calls[node] = None
            if state is State.OWNED:
                self._contest(entry, node, address, mac, now)
        elif state is State.YIELDING:
            book.yield_to(entry, node, now)
            book.wire.shown(node, address, mac, now)
        elif state is State.OWNED:
            if book.elect(entry) != book.me:
                book.yield_to(entry, node, now)
            elif self._assert(entry, node, now, address):
                book.events.append(Reassert(key, node))
        else:
            book.believe(entry, node, now)

    def _contest(self, entry: Entry, node: str, address: str, mac: str, now: float) -> None:
        """A node that membership does not hear announces what we own."""
        book, key = self._book, entry.group.key
        standing = book.standings.get(node)
        blocked = standing is None or standing.cluster_only
        heir = book.taken_at.get(key, now) >= self._gone_at.get(node, -NEVER)
        age = self._contest_age(key, node, now)
        lost = age >= CONTEST and not self._between(entry, node, Tier.SETTLED, Tier.SETTLED)
        if lost or (not heir and (self.cut_off or blocked)):
            first = self._first_of(entry, node) if lost else node
            self._concede(entry, first, address, mac if first == node else book.macs(first)[0], now)
            return
        # One that may be stale itself holds its frames back, until it is clear that there is nobody to talk to.
        may = not self.cut_off or age >= CONTEST / 2
        if may and now - self._reasserted.get(key, -NEVER) >= REASSERT_EVERY:
            self._reasserted[key] = now
            book.events += [SplitBrain(key, node, yielded=False), Reassert(key, node)]

    def _first_of(self, entry: Entry, node: str) -> str:
        """Of `node` and all others that contest it now, the one that they leave it to, too: the rest fall silent."""
        others = [name for name in self._contested[entry.group.key] if self._book.macs(name)]
        first = self._book.groups.elect(entry, lambda name: Tier.SETTLED if name in others else Tier.SILENT)
        return first or node

    def _concede(self, entry: Entry, node: str, address: str, mac: str, now: float) -> None:
        """Leave the group to a node that only the wire shows: it counts as alive, and as new, from now on."""
        book, key = self._book, entry.group.key
        self._contested.pop(key, None)
        book.events.append(SplitBrain(key, node, yielded=True))
        book.returned[node] = now + RETURN_WAIT
        self.conceded[key] = (node, now + RETURN_WAIT)
        book.yield_to(entry, node, now)
        book.due[key] = now + RETURN_WAIT
        if book.wire.seen(node, address, mac, now):
            book.events.append(Kept(node, address, mac))
        self._touch(node, now)

    def _assert(self, entry: Entry, node: str, now: float, name: str) -> bool:
        """Say to `node`, which named that address, that the group is ours, unless we did just now.

        Two who are both sure must not make a storm.
        """
        key = entry.group.key
        if now - self._reasserted.get(key, -NEVER) < REASSERT_EVERY:
            return False
        self._reasserted[key] = now
        self._book.events.append(SplitBrain(key, node, yielded=False))
        for claimed in {key: None, name: None}:
            self._book.outbox.claim(node, claimed, now)
        return True

    # --- messages of members ----------------------------------------------------------------------------

    def receive(self, sender: str, message: Claim | Released | Handover, basis: int, now: float) -> None:
        """A member's message; `basis` is the generation of our view before it came."""
        book = self._book
        for key in message.keys:
            entry = book.groups.find(key)
            match message:
                case Claim(generation):
                    if entry is None:
                        book.outbox.released(sender, key)
                    else:
                        self._claimed(entry, key, sender, generation, basis, now)
                case Released():
                    book.outbox.answered(sender, key)
                    held = entry.group.key if entry is not None else ""
                    if book.state(held) is State.YIELDING and book.leaving is None:
                        # It is alive and says that it has not taken over: somebody must answer meanwhile.
                        book.due[held] = now + YIELD_WAIT
                case Handover():
                    self._offered(entry, key, sender, now)

    def _claimed(self, entry: Entry, name: str, sender: str, generation: int, basis: int, now: float) -> None:
        book, key = self._book, entry.group.key
        state = book.state(key)
        if name != key:
            generation -= 1  # what an address that is no key is put ahead by is worth nothing to whom it is none, too
        if book.silent(sender):
            # It is gone, for all that we know, and this a word from before; where it lives, it will refute that first.
            self.calls[sender] = None
            if state is State.OWNED:
                self._assert(entry, sender, now, name)
            elif state is State.IDLE:
                book.outbox.released(sender, name)
            return
        if state is State.OWNED:
            ours = self.ahead(entry, sender)
            stuck = ours and generation == basis and self._contest_age(key, sender, now) >= DISPUTE
            if generation < basis or (generation == basis and ours and not (stuck and self._first_is(sender, key))):
                self._assert(entry, sender, now, name)
                return
            if ours:
                # Newer, but our own view still elects us: yield, and do not claim it back at once.
                length = min(MAX_HOLD, 2 * self.holds.get(key, (0.0, HOLD / 2))[1])
                self.holds[key] = (now + length, length)
            book.events.append(SplitBrain(key, sender, yielded=True))
        if state in ANSWERING:
            book.yield_to(entry, sender, now)
            if key in self.holds:
                book.due[key] = self.holds[key][0]
        else:
            book.believe(entry, sender, now)
        book.outbox.released(sender, name)

    def _contest_age(self, key: str, node: str, now: float) -> float:
        """For how long `node` has claimed `key` against us, without a longer pause."""
        # Of each by itself: where several claim it at once, none of these contests would ever grow old otherwise.
        others = self._contested.setdefault(key, {})
        for other in [other for other, (_, last) in others.items() if now - last > CONTEST_FORGET]:
            del others[other]
        since, _ = others.get(node, (now, now))
        others[node] = (since, now)
        return now - since

    def _first_is(self, node: str, key: str) -> bool:
        """By names alone: what two agree on who do not agree on who is a candidate."""
        return rank((self._book.me, node), key)[0] == node

    def ahead(self, entry: Entry, other: str) -> bool:
        """Whether the election is ours rather than `other`'s."""
        book = self._book
        winner = book.elect(entry)
        if winner in (book.me, other):
            return winner == book.me
        return self._between(entry, other, book.tier(book.me), book.tier(other))

    def _between(self, entry: Entry, other: str, mine: Tier, theirs: Tier) -> bool:
        """Whether the election between us two alone is ours, were these our tiers."""
        if mine != theirs:
            return mine < theirs
        me = self._book.me
        return self._book.groups.elect(entry, lambda name: mine if name in (me, other) else Tier.SILENT) == me

    def _offered(self, entry: Entry | None, name: str, sender: str, now: float) -> None:
        """`sender` would like to be rid of the group that it has by the key `name`."""
        book = self._book
        key = entry.group.key if entry is not None else name
        state = book.state(key)
        if entry is not None and state is State.PENDING and name == key:
            book.believe(entry, sender, now)
            book.apply(entry, Input.WIN, now)
        elif entry is not None and state is State.OWNED:
            book.outbox.claim(sender, name, now)
            since = max(book.taken_at.get(key, -NEVER), self._reasserted.get(key, -NEVER))
            if now - since >= CONTEST_FORGET:  # else our frames are being repeated
                # It has answered for it: we were given up without our knowing, and hosts' caches hold its frames.
                self._reasserted[key] = now
                book.events.append(Reassert(key, sender))
        else:
            book.outbox.released(sender, name)
