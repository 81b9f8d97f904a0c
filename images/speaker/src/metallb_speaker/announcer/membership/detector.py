"""Detecting failures: the closer watch of the neighbours, and SWIM's probing of everybody in turn.

`swim` owns the clock and the datagrams that come in; this holds who is being watched and asked, and sends for it.
"""

from __future__ import annotations

from random import Random

from metallb_speaker.announcer.membership import probe, ring
from metallb_speaker.announcer.membership.health import Health
from metallb_speaker.announcer.membership.messages import Ack, Nack, Ping, PingReq, Record, Status
from metallb_speaker.announcer.membership.peers import Peer
from metallb_speaker.announcer.membership.table import Table
from metallb_speaker.announcer.membership.timings import Timings
from metallb_speaker.announcer.membership.transport import Transport
from metallb_speaker.announcer.membership.watch import Act, Watch

#: Pings by way of others that are awaited, at most; the oldest are forgotten.
MAX_ASKED = 256
#: Times that a probe is repeated, and others are asked, within its period.
PROBE_ROUNDS = 2


class Detector:
    """Watches, probes and favours of one member. `last_heard`: when anybody was."""

    def __init__(self, table: Table, net: Transport, rng: Random, timings: Timings, now: float) -> None:
        self._table, self._net, self._rng, self._timings = table, net, rng, timings
        self.health = Health()
        self.watches: dict[str, Watch] = {}
        self.last_heard = now
        self._ring_version = -1
        self._order = probe.Order(rng)
        self._favours = probe.Favours(timings)
        self._probe: probe.Probe | None = None
        self._period_at = now + timings.period * rng.random()
        self._sequence = 0
        self._asked: dict[int, str] = {}  # sequence of a PingReq -> its target

    def deadline(self) -> float:
        """When `on_deadline` must be called next."""
        due = min(self._period_at, self._favours.deadline())
        if self._probe is not None and not self._probe.answered and self._probe.rounds < PROBE_ROUNDS:
            due = min(due, self._probe.next_at)
        if self.watches:
            confirm = self._confirm(due)
            peers = self._table.peers
            due = min(due, *(w.deadline(peers[n].known_alive, confirm) for n, w in self.watches.items()))
        return due

    def on_deadline(self, now: float) -> None:
        """Watch, probe, and answer for those whose target was silent."""
        self.rewire(now)
        self._step_watches(now)
        self._step_probe(now)
        for favour in self._favours.due(now):
            requester = self._table.peers.get(favour.requester)
            if requester is not None:
                self._net.send(requester, Nack(favour.sequence))

    def joined(self, name: str) -> None:
        """A new member: to be probed in this round already."""
        self._order.add(name)

    def stopped(self, now: float) -> None:
        """This process was not running: what was asked before will not be answered."""
        self._probe = None
        self.last_heard = now

    def late(self, seconds: float) -> None:
        """The loop woke late: silence of that time says nothing."""
        for watch in self.watches.values():
            watch.shift(seconds)

    def favour(self, requester: Peer, sequence: int, target: str, now: float) -> None:
        """Ping `target` for `requester`; one that is not known is not answered for."""
        other = self._table.peers.get(target)
        if other is not None:
            self._favours.add(self.ping(other), requester.name, sequence, now)

    def nacked(self, sequence: int) -> None:
        """A helper lives but could not reach the target."""
        if self._probe is not None and self._probe.sequence == sequence:
            self._probe.nacked += 1

    def acked(self, sequence: int, now: float) -> None:
        """A ping of ours, or one that we asked for, was answered."""
        favour = self._favours.answered(sequence)
        if favour is not None and favour.requester in self._table.peers:
            self._net.send(self._table.peers[favour.requester], Ack(favour.sequence))
        target = self._asked.pop(sequence, "")
        if target in self._table.peers:
            self._table.peers[target].known_alive = now
        if self._probe is not None and self._probe.sequence == sequence and not self._probe.answered:
            self._probe.answered = True
            self.health.better()

    def rewire(self, now: float) -> None:
        """Other neighbours, if others are alive."""
        if self._ring_version == self._table.version:
            return
        self._ring_version = self._table.version
        wanted = ring.neighbours(self._table.me, self._table.alive, self._timings.neighbours)
        self.watches = {name: self.watches.get(name) or Watch(now, self._timings) for name in sorted(wanted)}

    def _confirm(self, now: float) -> float:
        """The patience of the closer watch: more while we are unwell, or seem to be the one that is cut off."""
        patience = self.health.patience(self._timings.confirm)
        deaf = len(self._table.alive) >= 2 and now - self.last_heard > self._timings.worry
        return patience + self._timings.deaf_extra if deaf else patience

    def _step_watches(self, now: float) -> None:
        confirm = self._confirm(now)
        for name, watch in list(self.watches.items()):
            peer = self._table.peers[name]
            for act in watch.step(now, peer.known_alive, confirm):
                match act:
                    case Act.PING:
                        self.ping(peer)
                    case Act.ASK:
                        self.ask(peer)
                    case Act.SUSPECT:
                        self._table.doubt(peer, doubted=True)
                    case Act.CLEAR:
                        self._table.doubt(peer, doubted=False)
                    case Act.FAIL:
                        self._table.fail(peer, now)
        self.rewire(now)

    def _step_probe(self, now: float) -> None:
        current = self._probe
        if current is not None and not current.answered and current.rounds < PROBE_ROUNDS and now >= current.next_at:
            current.rounds += 1
            current.next_at = now + current.timeout
            peer = self._table.peers.get(current.target)
            if peer is not None and peer.alive and peer.known_alive < current.sent:
                self._net.send(peer, Ping(current.sequence))
                current.asked += self.ask(peer, current.sequence)
        if now < self._period_at:
            return
        if current is not None and not current.answered:
            peer = self._table.peers.get(current.target)
            if peer is not None and peer.alive and peer.known_alive < current.sent:
                self._table.suspect(peer, now)
                if current.asked and current.nacked < current.asked:
                    self.health.worse()
        self._period_at = now + self.health.stretch(self._timings.period)
        target = self._order.next(self._table.alive)
        self._probe = None
        if target:
            peer = self._table.peers[target]
            known = [p.record for p in self._table.peers.values() if p.record is not None and p.name != target]
            sync = self._rng.sample(known, min(self._timings.sync, len(known)))
            sequence = self.ping(peer, *sync)
            timeout = self.health.stretch(self._timings.timeout)
            self._probe = probe.Probe(target, sequence, now, timeout, now + timeout)

    def ping(self, peer: Peer, *more: Record) -> int:
        """Ping, and tell a suspect that it is one (Lifeguard's buddy system), and `more`. Gives the sequence."""
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        suspected = peer.record is not None and peer.record.status is Status.SUSPECT
        told = (peer.record,) if suspected and peer.record is not None else ()
        ping = Ping(self._sequence)
        # Of nodes with long names and many prefixes not all records fit.
        self._net.send(peer, *self._net.fitting((*told, *more), ping), ping)
        return self._sequence

    def ask(self, target: Peer, sequence: int = 0) -> int:
        """Ask others to ping `target`; gives how many."""
        if not sequence:
            self._sequence = sequence = self._sequence + 1 & 0xFFFFFFFF
        others = sorted(self._table.alive - {target.name})
        helpers = self._rng.sample(others, min(self._timings.helpers, len(others)))
        if helpers:
            if len(self._asked) >= MAX_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[sequence] = target.name
        for name in helpers:
            self._net.send(self._table.peers[name], PingReq(sequence, target.name))
        return len(helpers)
