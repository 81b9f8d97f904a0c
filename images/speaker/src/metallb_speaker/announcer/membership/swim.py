"""Membership: SWIM with suspicion and Lifeguard, and a closer watch among neighbours; sans-IO.

After Das, Gupta, Motivala 2002 ("SWIM") and Dadgar, Phillips, Currey 2018 ("Lifeguard"). `timings` has
every number, `ring` says who watches whom, `watch` how, `detector` does it, `table` what is believed,
`transport` what is let in.
This module owns the timers and passes messages on. `api.Members` describes the verbs.

A member starts unsettled (tier NEW) and settles after `settle` seconds, or at once where nobody has been
settled for longer than that and nobody knows it from before: a cluster that starts has nothing to protect.
Whoever was cut off or stopped, and learns that the others gave it up, starts anew as a returner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from metallb_speaker.announcer.membership.api import Endpoint
from metallb_speaker.announcer.membership.contact import Contact
from metallb_speaker.announcer.membership.detector import Detector
from metallb_speaker.announcer.membership.events import (
    Event,
    Fresh,
    Ready,
    Received,
    Replaced,
    Standing,
    Stopped,
    Tier,
)
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.messages import (
    Ack,
    Beat,
    Claim,
    Handover,
    Hello,
    Message,
    Nack,
    Ping,
    PingReq,
    Record,
    Released,
    Status,
)
from metallb_speaker.announcer.membership.peers import Peer
from metallb_speaker.announcer.membership.table import MAX_GENERATION, MAX_INCARNATION, Table
from metallb_speaker.announcer.membership.timings import DEFAULT, Timings
from metallb_speaker.announcer.membership.transport import Transport
from metallb_speaker.announcer.membership.wire import MAX_MACS, MAX_PREFIXES
from metallb_speaker.desired import Member

#: To a member that we hold for gone and that talks to us: we tell it so, at most this often.
TELL_EVERY = 0.1


class Membership:
    """One member. Without keys it sends nothing and the cluster's list is the view."""

    def __init__(
        self,
        name: str,
        keyring: Keyring,
        *,
        rng: Random,
        now: float,
        address: str = "",
        port: int = 7946,
        timings: Timings = DEFAULT,
    ) -> None:
        """`name`: this node. `address`, `port`: where others reach it. `rng`: SystemRandom, but for simulations."""
        self.name = name
        self._timings = timings
        self._rng = rng
        self._table = Table(name, timings)
        self._net = Transport(self._table, keyring, address, port, rng, timings)
        self._enabled = bool(keyring)
        self._detector = Detector(self._table, self._net, rng, timings, now)
        self._contact = Contact(self._table, self._net, self._detector, rng, timings, now)
        # Joining and settling.
        self._listed = False
        self._self_alive = True  # by the cluster's word, which alone counts without keys
        self._joined = False
        self._returner = False
        self._join_until = now + timings.lone_wait
        self._settle_at = float("inf")
        self._settled_since = 0.0
        # Self-awareness.
        self._expected = now
        self._last_hears_me = now
        self._cut_at = -timings.cut_memory - 1
        self._stopped_at: float | None = None
        self._awaited: set[str] = set()  # whose answer makes us fresh again
        self._answered = False
        # Timers.
        self._beat_at = now
        self._stand()

    # --- what the caller says ----------------------------------------------------------------------

    def set(self, seeds: Iterable[Member], now: float) -> None:
        """See `api.Members.set`."""
        seeds = list(seeds)
        fresh = self._table.list_members(seeds, now)
        if not self._listed:
            self._listed = True
            self._join_until = now + self._timings.lone_wait
        self._contact.greet([peer.name for peer in fresh if not peer.alive])
        self._self_alive = all(member.alive for member in seeds if member.key == self.name)
        if not self._enabled and self._net.own.settled and not self._self_alive:
            self._renew(now, settled=False)  # the others go by the same word, and take over
        self._try_ready(now)

    def set_macs(self, macs: Iterable[str], now: float) -> None:
        """See `api.Members.set_macs`."""
        told = tuple(dict.fromkeys(macs))[:MAX_MACS]
        if told != self._net.own.macs:
            self._renew(now, macs=told)

    def set_prefixes(self, prefixes: Iterable[str], now: float) -> None:
        """See `api.Members.set_prefixes`."""
        said: tuple[str, ...] | None = tuple(sorted(set(prefixes)))
        if said is not None and len(said) > MAX_PREFIXES:
            said = None
        if said != self._net.own.prefixes:
            self._net.own = replace(self._net.own, prefixes=said)
            self._renew(now)

    def send(self, to: str, message: Claim | Released | Handover, now: float) -> None:
        """See `api.Members.send`."""
        peer = self._table.peers.get(to)
        if peer is not None and self._enabled:
            self._net.send(peer, message, most=2)

    def call(self, name: str, now: float) -> None:
        """See `api.Members.call`."""
        if self._enabled:
            self._contact.call(name, now)

    def leave(self, now: float) -> None:
        """See `api.Members.leave`."""
        self._renew(now, leaving=True)

    def stay(self, now: float) -> None:
        """See `api.Members.stay`."""
        self._renew(now, leaving=False)

    def depart(self, now: float) -> None:
        """See `api.Members.depart`. Everybody is told directly, neighbours three times: nobody asks us again."""
        own = self._net.own
        self._net.own = replace(own, status=Status.LEFT, incarnation=own.incarnation + 1)
        for name in (*self._table.alive, *self._detector.watches, *self._detector.watches):
            self._net.send(self._table.peers[name], self._net.own, most=0)

    # --- what the caller asks ------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """See `api.Members.events`."""
        taken, self._table.events = self._table.events, []
        return taken

    def pending(self) -> list[tuple[bytes, Endpoint]]:
        """See `api.Members.pending`."""
        taken, self._net.out = self._net.out, []
        return taken

    def view(self) -> Mapping[str, Standing]:
        """See `api.Members.view`."""
        return self._table.standings

    @property
    def generation(self) -> int:
        """See `api.Members.generation`."""
        return self._table.generation

    @property
    def ready(self) -> bool:
        """See `api.Members.ready`."""
        return self._joined and self._stopped_at is None

    def cut_off(self, now: float) -> bool:
        """See `api.Members.cut_off`."""
        return now - self._cut_at <= self._timings.cut_memory and self._table.side(now) <= 0

    def hears(self, now: float) -> bool:
        """See `api.Members.hears`."""
        return bool(self._table.alive) and now - self._detector.last_heard <= self._timings.worry

    def drops(self) -> Mapping[str, int]:
        """See `api.Members.drops`."""
        return self._net.drops

    def status(self) -> dict[str, Any]:
        """See `api.Members.status`."""
        return {
            "enabled": self._enabled,
            "ready": self.ready,
            "generation": self.generation,
            "localHealth": self._detector.health.score,
            "blocked": list(self._contact.blocked),
            "neighbours": sorted(self._detector.watches),
            "dropped": dict(self._net.drops),
            "members": {
                standing.name: {
                    "tier": standing.tier.name.lower(),
                    "suspect": standing.suspect,
                    "byClusterOnly": standing.cluster_only,
                    "macs": list(standing.macs),
                    "onLink": None if standing.prefixes is None else list(standing.prefixes),
                }
                for standing in self._table.standings.values()
            },
        }

    # --- self-awareness ------------------------------------------------------------------------------

    def turn(self, now: float) -> bool:
        """See `api.Members.turn`."""
        late = now - self._expected
        self._expected = now
        if late <= self._timings.lag:
            return False
        self._detector.late(late)
        if late <= self._timings.stopped:
            self._detector.health.worse()
            return False
        self._detector.health.worse(2)
        self._table.events.append(Stopped(late))
        self._cut_at = now
        self._last_hears_me = now
        self._detector.stopped(now)
        self._stopped_at = now
        self._answered = False
        if self._enabled:
            asked = sorted(self._table.alive)
            self._rng.shuffle(asked)
            self._awaited = set(asked[: max(self._timings.neighbours, 8)])
            for name in self._awaited:
                self._detector.ping(self._table.peers[name])
        self._try_fresh(now)
        return True

    def _try_fresh(self, now: float) -> None:
        if self._stopped_at is None:
            return
        waited = now - self._stopped_at
        enough = self._answered and waited >= self._timings.fresh_wait
        if not self._awaited or enough or waited >= self._timings.lone_wait:
            self._stopped_at = None
            self._awaited = set()
            self._table.events.append(Fresh())

    # --- in --------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """See `api.Members.receive`."""
        received = self._net.receive(datagram, source, now)
        if received is None:
            return
        peer, content = received
        self._detector.last_heard = now
        if content.generation <= MAX_GENERATION:
            self._table.generation = max(self._table.generation, content.generation)
        for message in content.messages:
            self._handle(peer, message, now)
        if peer.record is not None and not peer.alive and now - peer.told_at >= TELL_EVERY:
            peer.told_at = now
            self._net.hello(peer, now)  # it carries what we hold of it: it can refute
        self._try_ready(now)

    def _handle(self, peer: Peer, message: Message, now: float) -> None:
        match message:
            case Record():
                if message.name == self.name:
                    self._told_of_self(peer, message, now)
                elif message.status is not Status.FAILED or not peer.gone(now, self._timings.mutual):
                    # (One that has just been cut off itself gave everybody up: that says nothing.)
                    known = message.name in self._table.alive
                    self._table.merge(message, now)
                    if not known and message.name in self._table.alive:
                        self._detector.joined(message.name)
            case Beat(hearing):
                if hearing:
                    peer.hears_me = self._last_hears_me = now
            case Ping(sequence):
                # Before the answer, so that one which was stopped learns that it was replaced before it goes on.
                told = (peer.record,) if peer.record is not None and peer.record.status is not Status.ALIVE else ()
                self._net.send(peer, *told, Ack(sequence))
            case Ack(sequence):
                self._acked(peer, sequence, now)
            case PingReq(sequence, target):
                self._detector.favour(peer, sequence, target, now)
            case Nack(sequence):
                self._detector.nacked(sequence)
            case Hello(nonce, _, settled_for):
                peer.settled_for = settled_for
                if nonce:
                    self._net.hello(peer, now, echo=nonce, ask=False)
            case Claim() | Released() | Handover():
                self._table.events.append(Received(peer.name, message))

    def _acked(self, peer: Peer, sequence: int, now: float) -> None:
        self._last_hears_me = now
        if peer.name in self._awaited:
            self._awaited.discard(peer.name)
            self._answered = True
            self._try_fresh(now)
        self._detector.acked(sequence, now)

    def _told_of_self(self, peer: Peer, record: Record, now: float) -> None:
        own = self._net.own
        if record.incarnation > MAX_INCARNATION or own.status is Status.LEFT:
            return
        ours = record.boot == self._net.boot
        self._returner |= not ours  # the others know an earlier life of this node
        if ours and (record.status is Status.ALIVE or record.incarnation < own.incarnation):
            return
        if record.incarnation < own.incarnation:
            return
        if ours and record.status is Status.SUSPECT:
            self._detector.health.worse()
        replaced = ours and record.status is Status.FAILED and now - self._cut_at <= self._timings.cut_memory
        if replaced and peer.gone(now, self._timings.mutual):
            # We had given it up, too: the smaller side was cut off. Of halves nothing tells which; one name goes on.
            side = self._table.side(now)
            replaced = side < 0 or (side == 0 and self.name > peer.name)
            if replaced and side == 0:
                self._table.events.append(Replaced())  # it hands over in order, for the others may have nothing yet
                self._settle_at = now + self._timings.settle
            elif replaced:
                self._rejoin(now)
        elif replaced:
            self._rejoin(now)
        settled = own.settled and not replaced
        news = record.status is not Status.SUSPECT
        self._renew(now, at_least=record.incarnation + 1, settled=settled, news=news)

    # --- joining, settling ------------------------------------------------------------------------------

    def _rejoin(self, now: float) -> None:
        """The others replaced us while we were cut off: give everything up, and start as a newcomer does."""
        self._table.events.append(Replaced())
        self._returner = True
        self._joined = False
        self._join_until = now + self._timings.lone_wait
        self._settle_at = float("inf")
        for peer in self._table.peers.values():
            peer.settled_for = None
        self._contact.joined = False
        self._contact.greet(list(self._table.peers))

    def _try_ready(self, now: float) -> None:
        """Ready once all whom the cluster calls alive have said hello, or the wait for them is over."""
        if self._joined or not self._listed:
            return
        peers = self._table.peers.values()
        expected = [peer for peer in peers if peer.listed_alive or peer.alive]
        # Alive, too: one that we gave up while we were cut off has answered, but must refute that first.
        answered = bool(expected) and all(peer.settled_for is not None and peer.alive for peer in expected)
        if now < self._join_until and not (answered and self._enabled):
            return
        self._joined = self._contact.joined = True
        self._settle_at = now + self._timings.settle
        self._table.events.append(Ready())
        old = 10 * self._timings.settle
        unheard = any(peer.listed_alive and not peer.alive for peer in peers)
        settled = [peer for peer in peers if peer.alive and peer.record is not None and peer.record.settled]
        young = all(peer.settled_for is not None and peer.settled_for < old for peer in settled)
        if (young and not unheard and not self._returner) if self._enabled else self._self_alive:
            self._settle(now)
        self._stand()

    def _settle(self, now: float) -> None:
        self._settle_at = float("inf")
        self._settled_since = now
        self._renew(now, settled=True)

    def _maybe_settle(self, now: float) -> None:
        """In time, or as soon as nobody else is settled: then there is nothing to wait for.

        Where nobody has ever been heard, everybody goes by the cluster's word: the others have us settled, too.
        """
        if self._net.own.settled or not self.ready:
            return
        alone = not any(s.tier is Tier.SETTLED for s in self._table.standings.values())
        deaf = all(peer.record is None for peer in self._table.peers.values())
        if alone or (self._enabled and now >= self._settle_at) or (deaf and self._self_alive):
            self._settle(now)

    def _renew(
        self,
        now: float,
        *,
        at_least: int = 0,
        settled: bool | None = None,
        leaving: bool | None = None,
        macs: tuple[str, ...] | None = None,
        news: bool = True,
    ) -> None:
        """Say something new of ourselves, under a new incarnation. `news`: everybody should know at once."""
        own = self._net.own
        self._net.own = replace(
            own,
            incarnation=max(own.incarnation + 1, at_least),
            settled=own.settled if settled is None else settled,
            leaving=own.leaving if leaving is None else leaving,
            macs=own.macs if macs is None else macs,
        )
        self._table.gossip.add(self._net.own)
        self._table.news |= news
        self._stand()

    def _stand(self) -> None:
        own = self._net.own
        tier = Tier.LEAVING if own.leaving else Tier.SETTLED if own.settled else Tier.NEW
        standing = Standing(self.name, tier, macs=own.macs, prefixes=own.prefixes)
        if self._table.standings.get(self.name) != standing:
            self._table.standings[self.name] = standing
            self._table.generation += 1

    # --- timers -------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """See `api.Members.deadline`."""
        due = min(self._beat_at, self._contact.deadline(enabled=self._enabled))
        if self._enabled:  # nobody is probed without keys: those times do not move on
            due = min(due, self._detector.deadline())
        for suspicion in self._table.suspicions.values():
            due = min(due, suspicion.deadline())
        self._expected = max(due, self._expected)
        return due

    def on_deadline(self, now: float) -> None:
        """See `api.Members.on_deadline`."""
        self.turn(now)
        timings = self._timings
        self._contact.on_deadline(now, enabled=self._enabled)
        self._try_ready(now)
        self._try_fresh(now)
        if self._enabled:
            self._note_cut(now)
            self._detector.on_deadline(now)
            if now >= self._beat_at:
                self._beat_at = now + timings.beat * (0.95 + 0.1 * self._rng.random())
                for name in self._detector.watches:
                    peer = self._table.peers[name]
                    self._net.send(peer, Beat(now - peer.heard < timings.worry))
        elif now >= self._beat_at:
            self._beat_at = now + timings.period
        self._table.expire(now)
        self._maybe_settle(now)
        self._net.settled_for = max(1, int((now - self._settled_since) * 10)) if self._net.own.settled else 0
        if self._enabled:
            self._contact.tell_news(now)

    def _note_cut(self, now: float) -> None:
        """Remember that we were cut off: nobody is heard, or nobody says that it hears us."""
        peers = self._table.peers.values()
        if not any(peer.record is not None and peer.record.status is not Status.LEFT for peer in peers):
            self._detector.last_heard = self._last_hears_me = now
        elif (
            now - self._detector.last_heard > self._timings.worry or now - self._last_hears_me > 2 * self._timings.worry
        ):
            self._cut_at = now
