"""Keeping contact: greeting seeds, calling the silent, telling news, and saying that UDP is blocked.

`swim` owns the clock; this knows whom to send what for other purposes than watching (`detector`).
"""

from __future__ import annotations

from random import Random

from metallb_speaker.announcer.membership.detector import Detector
from metallb_speaker.announcer.membership.events import Degraded, Restored
from metallb_speaker.announcer.membership.messages import Beat
from metallb_speaker.announcer.membership.table import Table
from metallb_speaker.announcer.membership.timings import Timings
from metallb_speaker.announcer.membership.transport import Transport

#: A member is called out of turn at most this often: what asks for it may come from frames that anybody can send.
CALL_EVERY = 0.05


class Contact:
    """Of one member. `joined` is set by `swim`: until then everybody is called, else one in turn."""

    def __init__(
        self, table: Table, net: Transport, detector: Detector, rng: Random, timings: Timings, now: float
    ) -> None:
        self._table, self._net, self._detector, self._rng, self._timings = table, net, detector, rng, timings
        self.joined = False
        self.blocked: tuple[str, ...] = ()  # members that the cluster calls alive and that are not heard
        self._hellos: list[str] = []  # to be greeted, paced
        self._hello_at = now
        self._contact_at = now + timings.contact
        self._news_at = now

    def greet(self, names: list[str]) -> None:
        """Say hello to these, some at a time."""
        self._hellos += names

    def call(self, name: str, now: float) -> None:
        """Say hello to one that is silent, at once."""
        peer = self._table.peers.get(name)
        if peer is not None and not peer.alive and now - peer.hello_at >= CALL_EVERY:
            self._net.hello(peer, now)

    def deadline(self, *, enabled: bool) -> float:
        """When `on_deadline` must be called next."""
        due = self._contact_at
        if self._table.news and enabled:
            due = min(due, self._news_at)
        return min(due, self._hello_at) if self._hellos else due

    def on_deadline(self, now: float, *, enabled: bool) -> None:
        """Greet, and call who is silent."""
        if self._hellos and now >= self._hello_at:
            self._greet(now)
        if now >= self._contact_at:
            self._contact_at = now + self._timings.contact
            self._contact(now, enabled=enabled)

    def _greet(self, now: float) -> None:
        """Hellos to seeds that are new, a burst at a time."""
        self._hello_at = now + self._timings.hello_every
        burst, self._hellos = self._hellos[: self._timings.hello_burst], self._hellos[self._timings.hello_burst :]
        for name in burst:
            peer = self._table.peers.get(name)
            if peer is not None:
                self._net.hello(peer, now)

    def _contact(self, now: float, *, enabled: bool) -> None:
        """Call those that are silent: everybody while we join, else one in turn."""
        if enabled:
            self._say_degraded(now)
        self._table.forget(now)
        silent = [
            p for p in self._table.peers.values() if not p.alive and (p.member is not None or p.record is not None)
        ]
        if not self.joined and not self._hellos:
            unanswered = [p for p in self._table.peers.values() if p.settled_for is None]
            self._hellos = [p.name for p in unanswered if now - p.hello_at >= self._timings.hello_again]
        elif silent:
            peer = min(silent, key=lambda p: p.hello_at)
            if now - peer.hello_at >= self._timings.hello_again:
                self._net.hello(peer, now)

    def _say_degraded(self, now: float) -> None:
        patience = self._timings.degraded_after
        names = tuple(
            sorted(
                peer.name
                for peer in self._table.peers.values()
                if peer.listed_alive
                and not peer.alive
                and now - peer.silent_since > (patience if peer.record is None or peer.revived else 12 * patience)
            )
        )
        if names != self.blocked:
            self.blocked = names
            self._table.events.append(Degraded(names) if names else Restored())

    def tell_news(self, now: float) -> None:
        """What everybody should know at once goes to the neighbours and to a few others, who do the same."""
        if not self._table.news or now < self._news_at:
            return
        self._table.news = False
        self._news_at = now + self._timings.news_every
        others = sorted(self._table.alive - self._detector.watches.keys())
        chosen = [*self._detector.watches, *self._rng.sample(others, min(self._timings.fanout, len(others)))]
        for name in chosen:
            peer = self._table.peers[name]
            self._net.send(peer, Beat(now - peer.heard < self._timings.worry), most=64)
