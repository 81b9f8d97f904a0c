"""A cluster of speakers in virtual time: memberships, ownerships, a network that loses, and a layer 2 wire.

Deterministic: every choice comes from one seeded generator. A node's turn is what `membership/api.py` prescribes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.api import Endpoint
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.membership.timings import DEFAULT, Timings
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member

KEYS = Keyring.from_text("simulated secret")
PORT = 7946
PROBE_WAIT = 0.04  # how long layer 2 waits before it reports silence


def group(ip: str, candidates: Iterable[str], preferred: str = "", reason: str = "") -> Layer2Group:
    """One address of one Service."""
    addresses = (AnnouncedAddress(ip, (f"default/s-{ip}",)),)
    return Layer2Group(ip, addresses, tuple(sorted(candidates)), preferred=preferred, reason=reason)


@dataclass
class Node:
    """One speaker. `answers` is what its layer 2 answers for: what it owned at the end of its last turn."""

    name: str
    address: str
    mac: str
    membership: Membership
    ownership: Ownership
    powered: bool = True
    paused: bool = False
    silenced: bool = False  # UDP blocked, both ways; the wire works
    queue: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    wake: int = 0  # version of the scheduled wake-up
    wake_at: float = float("inf")
    sent: int = 0
    sent_bytes: int = 0
    heard: list[tuple[float, m.Event]] = field(default_factory=list)
    happened: list[tuple[float, o.Event]] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    handed_over: float = 0.0


class Cluster:
    """The nodes, the network, and the clock."""

    def __init__(
        self,
        size: int,
        *,
        seed: int = 1,
        loss: float = 0.0,
        keyring: Keyring = KEYS,
        timings: Timings = DEFAULT,
        latency: tuple[float, float] = (0.0002, 0.001),
        owning: bool = True,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.latency = latency
        self.keyring, self.timings, self.owning = keyring, timings, owning
        self.nodes: dict[str, Node] = {}
        self.members: dict[str, Member] = {}
        self.groups: list[Layer2Group] = []
        self.cut: Callable[[str, str], bool] = lambda source, target: False  # UDP and wire
        self.deaf: set[tuple[str, str]] = set()  # (source, target) of UDP that is lost
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._names: dict[Endpoint, str] = {}
        self.doubles: dict[str, float] = {}  # address -> longest time that two answered on one wire
        self.gaps: dict[str, float] = {}
        self._double_since: dict[str, float] = {}
        self._gap_since: dict[str, float] = {}
        for index in range(size):
            self._add(index)

    # --- building ------------------------------------------------------------------------------

    def _add(self, index: int) -> None:
        name = f"node-{index}"
        address = f"10.0.{index // 250}.{index % 250 + 1}"
        self.members[name] = Member(name, (address,), alive=True)
        self._names[address, PORT] = name
        self.nodes[name] = self._boot(name, address, index)

    def _boot(self, name: str, address: str, index: int) -> Node:
        rng = random.Random(self.rng.getrandbits(64))
        mac = f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}"
        membership = Membership(
            name, self.keyring, rng=rng, now=self.now, address=address, port=PORT, timings=self.timings
        )
        membership.set_macs([mac], self.now)
        return Node(name, address, mac, membership, Ownership(name, self.now))

    def start(self, names: Iterable[str] | None = None, spread: float = 0.5) -> None:
        """Every node begins, within `spread` seconds."""
        for name in names or list(self.nodes):
            self.at(self.now + self.rng.random() * spread, lambda n=name: self._begin(n))

    def _begin(self, name: str) -> None:
        node = self.nodes[name]
        node.membership.set(self.members.values(), self.now)
        if self.owning:
            node.ownership.replace(self.groups, self.now)
        self.turn(node)

    def set_groups(self, groups: list[Layer2Group]) -> None:
        """Desired changes, on all nodes within 5 ms."""
        self.groups = groups
        for node in self.nodes.values():
            self.at(
                self.now + self.rng.random() * 0.005,
                lambda n=node: (n.ownership.replace(groups, self.now), self.turn(n)),
            )

    # --- what happens to nodes -------------------------------------------------------------------

    def power_off(self, *names: str) -> None:
        """Nothing more comes from them, and nothing is told to the cluster's view yet."""
        for name in names:
            self.nodes[name].powered = False
        self._judge()

    def restart(self, name: str) -> None:
        """A new process on the node, which may have been killed or powered off."""
        index = int(name.rpartition("-")[2])
        old = self.nodes[name]
        self.nodes[name] = node = self._boot(name, old.address, index)
        node.happened, node.heard = old.happened, old.heard
        node.sent = old.sent
        old.powered = False
        self._judge()
        self._begin(name)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.nodes[name].paused = True
        self._judge()

    def resume(self, name: str) -> None:
        """SIGCONT."""
        node = self.nodes[name]
        node.paused = False
        self.turn(node)

    def partition(self, *sides: Iterable[str]) -> None:
        """Only members of one side reach each other, by UDP and by wire; no side: heal."""
        place = {name: index for index, side in enumerate(sides) for name in side}
        self.cut = lambda source, target: place.get(source, -1) != place.get(target, -1)
        self._judge()

    # --- the clock ---------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), what))

    def run(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = end
        self._judge()

    # --- a node's turn -------------------------------------------------------------------------------

    def turn(self, node: Node) -> None:
        if not node.powered or node.paused:
            return
        now, membership, ownership = self.now, node.membership, node.ownership
        if membership.turn(now):
            node.queue.clear()
        queue, node.queue = node.queue, []
        for data, source in queue:
            membership.receive(data, source, now)
        if membership.deadline() <= now:
            membership.on_deadline(now)
        if self.owning:
            node.heard += [(now, event) for event in ownership.follow(membership, now)]
            for event in ownership.events():
                self._owned(node, event)
        else:
            node.heard += [(now, event) for event in membership.events()]
        for data, target in membership.pending():
            self._send(node, data, target)
        due = membership.deadline()
        if self.owning:
            due = min(due, ownership.deadline())
        self._wake(node, max(due, now + 1e-6))

    def _wake(self, node: Node, when: float) -> None:
        node.wake += 1
        version = node.wake
        self.at(when, lambda: self.turn(node) if node.wake == version else None)

    def _send(self, node: Node, data: bytes, target: Endpoint) -> None:
        node.sent += 1
        node.sent_bytes += len(data)
        name = self._names.get(target, "")
        if not name or node.silenced or (node.name, name) in self.deaf or self.cut(node.name, name):
            return
        if self.rng.random() < self.loss:
            return
        delay = self.latency[0] + self.rng.random() * (self.latency[1] - self.latency[0])
        self.at(self.now + delay, lambda: self._deliver(name, data, (node.address, PORT)))

    def _deliver(self, name: str, data: bytes, source: Endpoint) -> None:
        node = self.nodes[name]
        if node.powered and not node.silenced:
            node.queue.append((data, source))
            self.turn(node)

    # --- the wire --------------------------------------------------------------------------------------

    def _owned(self, node: Node, event: o.Event) -> None:
        node.happened.append((self.now, event))
        match event:
            case o.Acquired(key) | o.Reassert(key):
                node.answers.add(key)
                self.at(self.now + 0.0002, lambda: self._gratuitous(node, key))
            case o.Lost(key):
                node.answers.discard(key)
            case o.Probe(address):
                self.at(self.now + 0.0005, lambda: self._probe(node, address))
            case o.HandedOver():
                node.handed_over = self.now
            case _:
                pass
        if isinstance(event, o.Acquired | o.Lost):
            self._judge()

    def _gratuitous(self, node: Node, key: str) -> None:
        if not node.powered or node.paused:
            return
        for other in list(self.nodes.values()):
            if other is not node and key in other.answers and other.powered and not self.cut(node.name, other.name):
                if other.paused:
                    continue
                other.ownership.foreign_claim(key, node.mac, self.now)
                self.turn(other)

    def _probe(self, node: Node, address: str) -> None:
        macs = [
            other.mac
            for other in self.nodes.values()
            if other is not node and address in other.answers and self.up(other) and not self.cut(node.name, other.name)
        ]
        delay = 0.0005 if macs else PROBE_WAIT
        self.at(self.now + delay, lambda: (node.ownership.probe_result(address, macs, self.now), self.turn(node)))

    @staticmethod
    def up(node: Node) -> bool:
        return node.powered and not node.paused

    def answering(self, key: str) -> list[str]:
        """Who answers for `key` now."""
        return [node.name for node in self.nodes.values() if self.up(node) and key in node.answers]

    def _judge(self) -> None:
        """Note how long each address has been answered for by two that one client could hear, or by nobody."""
        if not self.owning:
            return
        for item in self.groups:
            names = self.answering(item.key)
            double = any(not self.cut(a, b) for a, b in itertools.combinations(names, 2))
            for bad, since, worst in (
                (double, self._double_since, self.doubles),
                (not names, self._gap_since, self.gaps),
            ):
                if bad:
                    since.setdefault(item.key, self.now)
                if item.key in since:
                    worst[item.key] = max(worst.get(item.key, 0.0), self.now - since[item.key])
                    if not bad:
                        del since[item.key]

    def forget_history(self) -> None:
        """Begin to measure anew."""
        self.doubles, self.gaps = {}, {}
        self._double_since, self._gap_since = {}, {}
        for node in self.nodes.values():
            node.heard, node.happened, node.sent, node.sent_bytes = [], [], 0, 0

    # --- questions ---------------------------------------------------------------------------------------

    def failures(self, *, of: Iterable[str] | None = None) -> list[tuple[float, str, str]]:
        """(when, observer, whom) of every Failed event at nodes that run."""
        wanted = None if of is None else set(of)
        return [
            (when, node.name, event.name)
            for node in self.nodes.values()
            if self.up(node)
            for when, event in node.heard
            if isinstance(event, m.Failed) and (wanted is None or event.name in wanted)
        ]

    def agreed(self) -> bool:
        """Whether every running node has exactly the running ones alive."""
        running = {node.name for node in self.nodes.values() if self.up(node)}
        return all(
            {s.name for s in node.membership.view().values() if s.tier < m.Tier.SILENT} == running
            for node in self.nodes.values()
            if self.up(node)
        )
