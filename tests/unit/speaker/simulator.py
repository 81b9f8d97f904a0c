"""A cluster of speakers in virtual time: memberships, ownerships, a network that loses, and a layer 2 wire.

Deterministic: every choice comes from one seeded generator. A node's turn is what `membership/api.py` prescribes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.membership.api import Endpoint
from metallb_speaker.announcer.membership.gossip import Gossip
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.replay import Window
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.membership.timings import DEFAULT, Timings
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.announcer.ownership import events as o
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member

KEYS = Keyring.from_text("simulated secret")
PORT = 7946
PROBE_WAIT = 0.04  # how long layer 2 waits before it reports silence
#: Gratuitous frames after an address was taken, as layer 2 sends them (of the later ones the first suffice).
REPEATS = (0.0002, 0.25, 1.25, 3.0)


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
    announced: dict[str, int] = field(default_factory=dict)  # key -> how many times from the beginning
    handed_over: float = 0.0
    behind: float = 0.0  # of its clock, which stood still while it was frozen


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
        prefixes: Mapping[str, tuple[str, ...]] | None = None,
        stem: str = "node",
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.latency = latency
        self.keyring, self.timings, self.owning, self.stem = keyring, timings, owning, stem
        self.prefixes = dict(prefixes or {})  # node -> what is on-link there; none: it does not say
        self.nodes: dict[str, Node] = {}
        self.members: dict[str, Member] = {}
        self.groups: list[Layer2Group] = []
        self.cut: Callable[[str, str], bool] = lambda source, target: False  # UDP and wire
        self.deaf: set[tuple[str, str]] = set()  # (source, target) of UDP that is lost
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._names: dict[Endpoint, str] = {}
        self.last_frame: dict[str, str] = {}  # address -> who announced it last: what neighbours' caches hold
        self.doubles: dict[str, float] = {}  # address -> longest time that two answered on one wire
        self.gaps: dict[str, float] = {}
        self._double_since: dict[str, float] = {}
        self._gap_since: dict[str, float] = {}
        for index in range(size):
            self._add(index)

    # --- building ------------------------------------------------------------------------------

    def _add(self, index: int) -> None:
        name = f"{self.stem}-{index}"
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
        if name in self.prefixes:
            membership.set_prefixes(self.prefixes[name], self.now)
        return Node(name, address, mac, membership, Ownership(name, self.now))

    def start(self, names: Iterable[str] | None = None, spread: float = 0.5) -> None:
        """Every node begins, within `spread` seconds."""
        for name in names or list(self.nodes):
            self.at(self.now + self.rng.random() * spread, lambda n=name: self._begin(n))

    def start_joined(self) -> None:
        """Every node begins as if all had joined and settled long ago: hundreds greet each other for minutes of CPU.

        What joining leaves behind is put in place: each one's record, its life and a replay window for it.
        """
        nets = {name: node.membership._net for name, node in self.nodes.items()}
        for node in self.nodes.values():
            membership = node.membership
            membership.set(self.members.values(), self.now)
            membership._joined = membership._contact.joined = True
            membership._settle(self.now - 1000)
        for name, node in self.nodes.items():
            table = node.membership._table
            for other, net in nets.items():
                if other != name:
                    peer = table.peers[other]
                    peer.record, peer.boot, peer.window = net.own, net.boot, Window(0)
                    peer.endpoint = (self.nodes[other].address, PORT)
                    peer.heard = peer.known_alive = peer.hears_me = self.now
                    peer.settled_for = 10_000
                    table.alive.add(other)
                    table._stand(peer)
            table.version += 1
            table.gossip, table.events, table.news = Gossip(table.timings.retransmit), [], False
            node.membership._contact._hellos = []
            self.at(self.now + self.rng.random() * 0.5, lambda n=node: (n.membership.turn(self.now), self.turn(n)))
            node.membership._expected = self.now + 1.0

    def _begin(self, name: str) -> None:
        node = self.nodes[name]
        self.list_members(node)
        if self.owning:
            node.ownership.replace(self.groups, self.now)
        self.turn(node)

    def list_members(self, node: Node) -> None:
        """The cluster's list, as it is now, for one node."""
        now = self.now - node.behind
        node.membership.set(self.members.values(), now)
        node.ownership.members({m.key: m.addresses for m in self.members.values()}, now)

    def set_groups(self, groups: list[Layer2Group]) -> None:
        """Desired changes, on all nodes within 5 ms."""
        self.groups = groups

        def tell(node: Node) -> None:
            now = self.now - node.behind
            node.ownership.complete(now)  # what comes now is younger than the process
            node.ownership.replace(groups, now)
            self.turn(node)

        for node in self.nodes.values():
            self.at(self.now + self.rng.random() * 0.005, lambda n=node: tell(n))

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

    def thaw(self, name: str, frozen: float) -> None:
        """A virtual machine goes on that was frozen for so long, its clock with it: it cannot know."""
        self.nodes[name].behind += frozen
        self.resume(name)

    def partition(self, *sides: Iterable[str]) -> None:
        """Only members of one side reach each other, by UDP and by wire; no side: heal."""
        place = {name: index for index, side in enumerate(sides) for name in side}
        self.cut = lambda source, target: place.get(source, -1) != place.get(target, -1)
        if not sides:
            # The cables are back: layer 2 announces all that it answers for anew, before anybody could talk.
            for node in self.nodes.values():
                for key in node.answers:
                    self._announce(node, key)
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
        now, membership, ownership = self.now - node.behind, node.membership, node.ownership
        if membership.turn(now):
            node.queue.clear()
        queue, node.queue = node.queue, []
        for data, source in queue:
            membership.receive(data, source, now)
        if membership.deadline() <= now:
            membership.on_deadline(now)
        if self.owning:
            node.heard += [(self.now, event) for event in ownership.follow(membership, now)]
            for event in ownership.events():
                self._owned(node, event)
        else:
            node.heard += [(self.now, event) for event in membership.events()]
        for data, target in membership.pending():
            self._send(node, data, target)
        due = membership.deadline()
        if self.owning:
            due = min(due, ownership.deadline())
        self._wake(node, max(due, now + 1e-6) + node.behind)

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
                self._announce(node, key)
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

    def _announce(self, node: Node, key: str) -> None:
        """Gratuitous frames from the beginning; what was still to come of an earlier beginning is dropped."""
        begun = node.announced[key] = node.announced.get(key, 0) + 1

        def send() -> None:
            if node.announced[key] == begun:
                self._gratuitous(node, key)

        for after in REPEATS:
            self.at(self.now + after, send)

    def _gratuitous(self, node: Node, key: str) -> None:
        if not node.powered or node.paused or key not in node.answers:
            return
        self.last_frame[key] = node.name
        for address in node.ownership.owned()[key].addresses:
            for other in list(self.nodes.values()):
                if other is node or not self.up(other) or self.cut(node.name, other.name):
                    continue
                if other.ownership.key_of(address) in other.answers:
                    other.ownership.foreign_claim(address, node.mac, self.now - other.behind)
                    self.turn(other)

    def _probe(self, node: Node, address: str) -> None:
        macs = [
            other.mac
            for other in self.nodes.values()
            if other is not node
            and not self.cut(node.name, other.name)
            and other.powered
            and (address == other.address or (not other.paused and other.ownership.key_of(address) in other.answers))
        ]
        delay = 0.0005 if macs else PROBE_WAIT
        self.at(
            self.now + delay,
            lambda: (node.ownership.probe_result(address, macs, self.now - node.behind), self.turn(node)),
        )

    @staticmethod
    def up(node: Node) -> bool:
        return node.powered and not node.paused

    def answering(self, address: str) -> list[str]:
        """Who answers for `address` now."""
        return [
            node.name
            for node in self.nodes.values()
            if self.up(node) and node.ownership.key_of(address) in node.answers
        ]

    def _judge(self) -> None:
        """Note how long each address has been answered for by two that one client could hear, or by nobody."""
        if not self.owning:
            return
        for address in (address.ip for item in self.groups for address in item.addresses):
            names = self.answering(address)
            double = any(not self.cut(a, b) for a, b in itertools.combinations(names, 2))
            for bad, since, worst in (
                (double, self._double_since, self.doubles),
                (not names, self._gap_since, self.gaps),
            ):
                if bad:
                    since.setdefault(address, self.now)
                if address in since:
                    worst[address] = max(worst.get(address, 0.0), self.now - since[address])
                    if not bad:
                        del since[address]

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
