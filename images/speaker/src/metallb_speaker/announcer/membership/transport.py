"""Sending and receiving datagrams: counters, challenges, replay windows, what is dropped and why.

How a life (boot id) of a sender is admitted: only when it echoes a number that we drew for it and that nobody
could have recorded. Three datagrams make both sides admit each other::

    A -> B   Hello(nonce=a)                  B does not know this life of A
    B -> A   Hello(nonce=b, echo=a)          A admits B
    A -> B   Hello(echo=b)                   B admits A

Anything else from a life that is not admitted changes nothing, and is answered by such a challenge.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from random import Random

from metallb_speaker.announcer.membership.api import Endpoint
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.messages import Hello, Message, Record, Status
from metallb_speaker.announcer.membership.peers import Peer, family
from metallb_speaker.announcer.membership.replay import Window
from metallb_speaker.announcer.membership.table import Table
from metallb_speaker.announcer.membership.timings import Timings
from metallb_speaker.announcer.membership.wire import Datagram, DecodeError, decode, encode, encode_message, room

# Reasons to drop, beyond those of `wire`.
REPLAY = "replay"
OWN_NAME = "ownName"  # another speaker runs under this node's name
TOO_MANY = "tooManyMembers"
NOT_ADMITTED = "notAdmitted"  # a life of a sender that has not proved to be live; it was challenged
DISABLED = "disabled"  # no key, or membership is off
NOT_SENT = "notSent"  # ours, which could not be put into a datagram: a defect, but none that may end the process

#: A challenge stays the same for so long: a flood of recordings must not invalidate the honest sender's answer.
NONCE_LIFE = 1.0
#: Between two challenges to one sender: a recording that is played back makes no more packets than it takes.
CHALLENGE_EVERY = 0.02
#: Records of others on the answer to a Hello, drawn at random: a newcomer gets as many answers as there are members.
HELLO_RECORDS = 6


class Transport:
    """The datagram layer of one member. `own` and `settled_for` are kept current by `swim`."""

    def __init__(self, table: Table, keyring: Keyring, address: str, port: int, rng: Random, timings: Timings) -> None:
        self.table = table
        self.keyring = keyring
        self.family = family(address)
        self.port = port
        self.rng = rng
        self.timings = timings
        self.boot = rng.getrandbits(63) + 1
        reachable = address if self.family and address not in ("0.0.0.0", "::") else ""  # noqa: S104 (compared)
        self.own = Record(table.me, Status.ALIVE, 0, self.boot, reachable, port)
        self.settled_for = 0
        self.out: list[tuple[bytes, Endpoint]] = []
        self.drops: Counter[str] = Counter()
        self._counter = 0
        self._room = room(table.me)

    # --- out -----------------------------------------------------------------------------------

    def send(self, peer: Peer, *messages: Message, most: int | None = None) -> None:
        """One datagram for `peer`: gossip first, for it is what the messages rest on; then the messages."""
        target = peer.target(self.family, self.port)
        if target is not None:
            self.send_to(peer.name, target, *messages, most=most)

    def send_to(self, name: str, target: Endpoint, *messages: Message, most: int | None = None) -> None:
        """The same, to a given address."""
        if not self.keyring:
            return
        try:
            encoded = [encode_message(message) for message in messages]
            free = self._room - sum(map(len, encoded))
            wanted = self.timings.piggyback if most is None else most
            gossip = self.table.gossip.take(free, wanted, len(self.table.alive) + 1) if wanted else []
            self._counter += 1
            data = encode(
                self.table.me, self.boot, self._counter, self.table.generation, (*gossip, *encoded), name, self.keyring
            )
        except (ValueError, struct.error):
            self.drops[NOT_SENT] += 1
            return
        self.out.append((data, target))

    def hello(self, peer: Peer, now: float, *, echo: int = 0, ask: bool = True, source: Endpoint | None = None) -> None:
        """Say hello: our record, what we hold of the receiver, and as many others as fit."""
        target = source or peer.target(self.family, self.port)
        if target is None:
            return
        if ask and (not peer.nonce or now - peer.nonce_at > NONCE_LIFE):
            peer.nonce, peer.nonce_at = self.rng.getrandbits(63) + 1, now
        peer.hello_at = now
        records = [self.own]
        if peer.record is not None:
            records.append(peer.record)
        if echo:
            others = [p.record for p in self.table.peers.values() if p.record is not None and p is not peer]
            records += self.rng.sample(others, min(HELLO_RECORDS, len(others)))
        hello = Hello(peer.nonce if ask else 0, echo, self.settled_for)
        self.send_to(peer.name, target, *self.fitting(records, hello), hello, most=0)

    def fitting(self, records: Iterable[Record], message: Message) -> list[Record]:
        """As many of `records`, from the first on, as one datagram takes beside `message`."""
        used = len(encode_message(message))
        fitting = []
        for record in records:
            used += len(encode_message(record))
            if used > self._room:
                break
            fitting.append(record)
        return fitting

    # --- in ------------------------------------------------------------------------------------

    def receive(self, data: bytes, source: Endpoint, now: float) -> tuple[Peer, Datagram] | None:
        """An authentic, fresh datagram of an admitted sender and that sender; None if it was dropped."""
        if not self.keyring:
            self.drops[DISABLED] += 1
            return None
        try:
            datagram = decode(data, self.table.me, self.keyring)
        except DecodeError as error:
            self.drops[error.reason] += 1
            return None
        if datagram.sender == self.table.me:
            self.drops[OWN_NAME] += 1
            return None
        peer = self.table.peer(datagram.sender, now)
        if peer is None:
            self.drops[TOO_MANY] += 1
            return None
        if peer.window is not None and peer.boot == datagram.boot:
            if not peer.window.accept(datagram.counter):
                self.drops[REPLAY] += 1
                return None
        elif not self._admit(peer, datagram, source, now):
            self.drops[NOT_ADMITTED] += 1
            return None
        peer.heard = peer.known_alive = now
        peer.endpoint = source
        return peer, datagram

    def _admit(self, peer: Peer, datagram: Datagram, source: Endpoint, now: float) -> bool:
        hello = next((m for m in datagram.messages if isinstance(m, Hello)), None)
        if hello is not None and peer.nonce and hello.echo == peer.nonce:
            old, peer.boot = peer.boot, datagram.boot
            peer.window = Window(datagram.counter)
            peer.nonce = 0
            if peer.record is not None and peer.record.boot == old != datagram.boot:
                self.table.fail(peer, now)  # that life is over, whatever the next one says
            return True
        if now - peer.hello_at >= CHALLENGE_EVERY or (hello is not None and not hello.echo):
            self.hello(peer, now, echo=hello.nonce if hello else 0, source=source)
        return False
