"""What is held of every member: merges what is said, decides what is news, keeps the standings and the generation.

Precedence is SWIM's (section 4.2): the higher incarnation, then the worse status. Two additions:
whoever has heard a member itself just now does not believe that it is suspect or failed; and a member is told
what is held of it (`told`), so that it can refute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from metallb_speaker.announcer.membership.events import (
    Changed,
    Cleared,
    Event,
    Failed,
    Joined,
    Left,
    Standing,
    Suspect,
    Tier,
)
from metallb_speaker.announcer.membership.gossip import Gossip
from metallb_speaker.announcer.membership.messages import Record, Status
from metallb_speaker.announcer.membership.peers import Peer
from metallb_speaker.announcer.membership.suspicion import Suspicion
from metallb_speaker.announcer.membership.timings import Timings
from metallb_speaker.desired import Member

#: Beyond this an incarnation is nobody's honest count; the field has 32 bits.
MAX_INCARNATION = 1 << 31
#: The same for a generation: a higher one is not adopted, so ours, which only grows by what happens, always fits.
MAX_GENERATION = 1 << 31


def newer(said: Record, held: Record) -> bool:
    """Whether `said` replaces `held`."""
    return (said.incarnation, said.status) > (held.incarnation, held.status)


class Table:
    """All other members. `events` grows; the owner of the table takes it."""

    def __init__(self, me: str, timings: Timings) -> None:
        self.me = me
        self.timings = timings
        self.peers: dict[str, Peer] = {}
        self.standings: dict[str, Standing] = {}
        self.suspicions: dict[str, Suspicion] = {}
        self.gossip = Gossip(timings.retransmit)
        self.events: list[Event] = []
        self.generation = 1
        self.alive: set[str] = set()  # names, by membership
        self.news = False  # something was added to the gossip that everybody should know at once
        self.version = 0  # of `alive`: a change means other neighbours

    # --- the cluster's list --------------------------------------------------------------------

    def list_members(self, members: Iterable[Member], now: float) -> list[Peer]:
        """The whole list; gives the peers that are new on it."""
        listed = {member.key: member for member in members if member.key != self.me}
        fresh: list[Peer] = []
        for name, member in listed.items():
            peer = self.peers.get(name)
            if peer is None:
                peer = self.peers[name] = Peer(name, silent_since=now)
            if peer.member is None:
                fresh.append(peer)
            elif member.alive and not peer.member.alive and not peer.alive:
                peer.revived = True
            peer.member = member
            if not member.alive:
                peer.revived = False
            self._stand(peer)
        for peer in [*self.peers.values()]:
            if peer.member is not None and peer.name not in listed:
                peer.member, peer.revived = None, False
                if peer.record is None:
                    self._forget(peer)
                else:
                    self._stand(peer)
        return fresh

    def peer(self, name: str, now: float) -> Peer | None:
        """The peer of that name, made if need be; None when the table is full."""
        peer = self.peers.get(name)
        if peer is None and len(self.peers) < self.timings.members:
            peer = self.peers[name] = Peer(name, silent_since=now)
        return peer

    def side(self, now: float) -> int:
        """Whether those on our side, of all known, are more (> 0) than those given up, as many (0), or fewer (< 0).

        One that has just come back does not count as being on it, and one that the cluster calls dead not at all.
        """
        known = [
            p
            for p in self.peers.values()
            if p.record is not None and p.record.status < Status.LEFT and (p.member is None or p.member.alive)
        ]
        gone = sum(p.gone(now, self.timings.mutual) for p in known)
        return 1 + len(known) - 2 * gone

    # --- what is said --------------------------------------------------------------------------

    def merge(self, record: Record, now: float) -> None:
        """Take in what somebody says of another member (not of this one)."""
        if record.incarnation > MAX_INCARNATION:
            return
        peer = self.peers.get(record.name)
        if peer is None or peer.record is None:
            gone = record.status > Status.SUSPECT
            if gone and (peer is None or peer.member is None):
                return  # of somebody who was never known, and is not any more
            peer = self.peer(record.name, now)
            if peer is not None:
                self.adopt(peer, record, now)
            return
        held = peer.record
        if not newer(record, held):
            if record.status is Status.SUSPECT and held.status is Status.SUSPECT:
                suspicion = self.suspicions.get(record.name)
                if suspicion and record.incarnation == held.incarnation and suspicion.accuse(record.accuser):
                    self.gossip.add(record)
            return
        doubted = record.status in (Status.SUSPECT, Status.FAILED) and record.boot == held.boot
        if doubted and peer.alive and now - peer.heard < self.timings.worry:
            return  # we hear it: whoever says so does not
        self.adopt(peer, record, now)

    def adopt(self, peer: Peer, record: Record, now: float) -> None:
        """Hold `record` of `peer` from now on, and pass it on."""
        held, was = peer.record, peer.alive
        restarted = was and held is not None and held.boot != record.boot and record.status <= Status.SUSPECT
        peer.record = record
        self.gossip.add(record)
        suspicion = self.suspicions.get(peer.name)
        if record.status is not Status.SUSPECT:
            self.suspicions.pop(peer.name, None)
        elif suspicion is None or suspicion.incarnation != record.incarnation:
            accuser, members = record.accuser, len(self.alive) + 1
            self.suspicions[peer.name] = Suspicion(record.incarnation, accuser, members, self.timings, now)
        if peer.alive:
            peer.revived = False
        if was != peer.alive or restarted:
            self.version += 1
            self.generation += 1
            # A member seen for the first time greets everybody itself; when hundreds start, telling would drown it.
            self.news |= held is not None
        if not peer.alive:
            peer.doubted = False
            if was:
                peer.silent_since = now
                self.events.append(Left(peer.name) if record.status is Status.LEFT else Failed(peer.name))
            self.alive.discard(peer.name)
        else:
            if not was and held is not None and held.boot == record.boot:
                peer.back_at = now
            if restarted:
                self.events.append(Failed(peer.name))
            if restarted or not was:
                self.events.append(Joined(peer.name))
            self.alive.add(peer.name)
        if record.status is Status.SUSPECT and (held is None or held.status is not Status.SUSPECT):
            if not peer.doubted:  # else it was said already
                self.events.append(Suspect(peer.name))
        elif record.status is Status.ALIVE and held is not None and held.status is Status.SUSPECT:
            self.events.append(Cleared(peer.name))
        if self._stand(peer) and was == peer.alive:
            self.generation += 1
            self.news = True

    def suspect(self, peer: Peer, now: float) -> None:
        """We accuse `peer`."""
        if peer.record is None:
            return
        accused = replace(peer.record, status=Status.SUSPECT, accuser=self.me)
        if peer.record.status is Status.ALIVE:
            self.adopt(peer, accused, now)
        elif peer.record.status is Status.SUSPECT and self.suspicions[peer.name].accuse(self.me):
            self.gossip.add(accused)

    def doubt(self, peer: Peer, doubted: bool) -> None:
        """The closer watch is in doubt about `peer`, or not any more. It decides within `confirm`, so nobody is told:

        with one datagram in ten lost there is some doubt somewhere all the time, and telling it would cost every member
        more with every other one.
        """
        if peer.doubted is doubted or not peer.alive:
            return
        peer.doubted = doubted
        self.events.append(Suspect(peer.name) if doubted else Cleared(peer.name))
        self._stand(peer)

    def fail(self, peer: Peer, now: float) -> None:
        """We give `peer` up."""
        if peer.alive and peer.record is not None:
            self.adopt(peer, replace(peer.record, status=Status.FAILED, accuser=""), now)

    def expire(self, now: float) -> None:
        """Give up those whose suspicion has lasted."""
        for name in [name for name, suspicion in self.suspicions.items() if suspicion.deadline() <= now]:
            self.fail(self.peers[name], now)

    def forget(self, now: float) -> None:
        """Forget those that nobody lists and nobody has heard for long."""
        for peer in [*self.peers.values()]:
            if peer.member is None and not peer.alive and now - peer.silent_since > self.timings.forget:
                self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        if peer.alive:
            return
        del self.peers[peer.name]
        if self.standings.pop(peer.name, None):
            self.events.append(Left(peer.name))

    def _stand(self, peer: Peer) -> bool:
        """Note how `peer` stands now; whether that changed. A change while it is alive is an event of its own."""
        held, standing = self.standings.get(peer.name), peer.standing()
        if standing == held:
            return False
        self.standings[peer.name] = standing
        if held is None:
            if standing.tier < Tier.SILENT and standing.cluster_only:
                self.events.append(Joined(peer.name))
            return False
        changed = replace(standing, suspect=False) != replace(held, suspect=False)
        if changed:
            self.events.append(Changed(peer.name))
        return changed
