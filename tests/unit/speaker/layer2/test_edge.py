"""The wiring of machine and sockets, with fake sockets: errors, order, bounds."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from metallb_common.obs import logs
from metallb_speaker.announcer.edge.groups import FakeGroups
from metallb_speaker.announcer.edge.interface import BATCH, LINGER
from metallb_speaker.announcer.edge.layer2 import REOPEN, Layer2Edge
from metallb_speaker.announcer.edge.layer2_fake import FakeLayer2
from metallb_speaker.announcer.edge.packet import FakeSocket
from metallb_speaker.announcer.layer2 import api, bpf, ndp
from metallb_speaker.announcer.layer2.duplicate import GRACE
from metallb_speaker.announcer.layer2.interfaces import Snapshot, packed
from tests.unit.speaker.layer2 import cbpf
from tests.unit.speaker.layer2.world import LINKS, NETWORKS, SNAPSHOT, V4, V6, asks, claims, group, is_probe


class Edge:
    """`Layer2Edge` with fake sockets, its registered descriptors, and time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sockets: list[FakeSocket] = []
        self.groups = FakeGroups()
        self.watched: dict[int, Callable[[float], None]] = {}
        self.refuse: OSError | None = None
        self.layer2 = Layer2Edge(
            self.watch,
            self.watched.pop,  # type: ignore[arg-type]
            open_socket=self._open,
            groups=self.groups,
        )

    def _open(self, *what: Any) -> FakeSocket:
        return self.open(*what)  # which a test may have replaced

    def watch(self, fd: int, handler: Callable[[float], None]) -> None:
        self.watched[fd] = handler

    def open(self, name: str, index: int, ether_type: int) -> FakeSocket:
        if self.refuse is not None:
            raise self.refuse
        self.sockets.append(FakeSocket(name, index, ether_type))
        return self.sockets[-1]

    def links(self, snapshot: Snapshot = SNAPSHOT) -> None:
        self.layer2.on_links(snapshot, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.layer2.deadline() <= end:
            self.now = max(self.now, self.layer2.deadline())
            self.layer2.on_deadline(self.now)
        self.now = end

    def socket(self, index: int, ether_type: int) -> FakeSocket:
        return next(s for s in self.sockets if (s.ifindex, s.ether_type, s.closed) == (index, ether_type, False))

    def hear(self, frame: bytes, index: int = 2) -> list[bytes]:
        """What is sent on the same socket because of this frame."""
        sock = self.socket(index, int.from_bytes(frame[12:14], "big"))
        sock.sent.clear()
        sock.deliver(frame)
        self.watched[sock.fileno()](self.now)
        return sock.sent


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logs.configure("none")


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    made.links()
    return made


def test_sockets_are_opened_when_there_is_something_to_answer_for(edge: Edge) -> None:
    assert edge.sockets == []
    edge.layer2.set(group(V4, V6), edge.now)
    assert {(s.ifindex, s.ether_type) for s in edge.sockets} == {(2, 0x0806), (2, 0x86DD)}
    assert set(edge.watched) == {s.fileno() for s in edge.sockets}


@pytest.mark.parametrize("address", [V4, V6])
def test_the_filter_is_open_before_the_probe_leaves(edge: Edge, address: str) -> None:
    order: list[str] = []
    kind = 0x86DD if ":" in address else 0x0806

    class Recorder(FakeSocket):
        def load(self, program: bpf.Block) -> None:
            super().load(program)
            if self.ether_type == kind and cbpf.run(program, asks(address), ifindex=2)[0]:
                order.append("filter")

        def _send(self, frame: bytes) -> int:
            order.append("probe" if is_probe(frame) else "other")
            return super()._send(frame)

    edge.layer2 = Layer2Edge(edge.watch, edge.watched.pop, open_socket=Recorder, groups=FakeGroups())  # type: ignore[arg-type]
    edge.links()
    edge.layer2.set(group(address), edge.now)
    assert order == ["filter", "probe"]


def test_answers_and_withdrawal(edge: Edge) -> None:
    edge.layer2.set(group(V4, V6), edge.now)
    edge.run(GRACE)
    assert len(edge.hear(asks(V4))) == len(edge.hear(asks(V6))) == 1
    assert edge.layer2.counters()["responses_sent", V4] == 1
    other = {"other": api.OwnedGroup("other", ("10.9.0.101", "fd09::101"))}
    edge.layer2.set(other, edge.now)
    assert edge.hear(asks(V4)) == edge.hear(asks(V6)) == []
    assert {ip for _, ip in edge.layer2.counters()} == {"10.9.0.101", "fd09::101"}
    edge.run(1)
    for sock in edge.sockets:
        assert cbpf.run(sock.program, asks(V4), ifindex=2)[0] == cbpf.run(sock.program, asks(V6), ifindex=2)[0] == 0
    assert edge.socket(2, 0x86DD).groups == {ndp.multicast_mac(ndp.solicited_node(packed("fd09::101")))}


def test_a_family_without_addresses_has_no_socket(edge: Edge) -> None:
    """A filter for IPv6 runs for every IPv6 packet: a cluster of IPv4 alone need not pay for that."""
    edge.layer2.set(group(V4), edge.now)
    assert [s.ether_type for s in edge.sockets] == [0x0806]
    edge.layer2.set(group(V6), edge.now)
    edge.run(LINGER + 1)
    assert [(s.ether_type, s.closed) for s in edge.sockets] == [(0x0806, True), (0x86DD, False)]
    edge.layer2.set({}, edge.now)
    edge.run(LINGER + 1)
    assert edge.watched == {}
    assert [s.closed for s in edge.sockets] == [True, True]
    assert edge.groups.joined == set()


@pytest.mark.parametrize("address", [V4, V6])
def test_doubts_about_members_open_no_socket_twice(edge: Edge, address: str) -> None:
    """The addresses of a member that is doubted are asked for: once with nothing owned here, and again."""
    for _ in range(5):
        edge.layer2.probe(address, edge.now)
        edge.run(5)
    edge.layer2.set(group(V4, V6, check=False), edge.now)
    opened = list(edge.sockets)
    for _ in range(5):
        edge.layer2.probe("10.9.0.9", edge.now)
        edge.layer2.probe("fd09::9", edge.now)
        edge.run(5)
        edge.layer2.set_members(["02:00:00:00:00:77"])
        edge.layer2.renew([V4, V6], edge.now)
    edge.layer2.set({}, edge.now)
    edge.layer2.set(group(V4, V6, check=False), edge.now)
    edge.run(2 * LINGER)
    assert edge.sockets == opened
    assert len(opened) == 2
    assert not any(sock.closed for sock in opened)
    assert len(edge.hear(asks(V4))) == len(edge.hear(asks(V6))) == 1
    # Withdrawn, a socket hears nothing while it lingers.
    edge.layer2.set({}, edge.now)
    edge.run(1)
    for sock in opened:
        assert not sock.closed
        assert cbpf.run(sock.program, asks(V4), ifindex=2)[0] == cbpf.run(sock.program, asks(V6), ifindex=2)[0] == 0


def test_addresses_that_share_a_group(edge: Edge) -> None:
    first, second = "fd09::100", "fd09::2:0:0:100"
    assert ndp.solicited_node(packed(first)) == ndp.solicited_node(packed(second))
    edge.layer2.set(group(first, second), edge.now)
    mac = ndp.multicast_mac(ndp.solicited_node(packed(first)))
    assert edge.socket(2, 0x86DD).groups == {mac}
    assert edge.groups.joined == {(2, ndp.solicited_node(packed(first)))}
    edge.layer2.set({first: api.OwnedGroup(first, (second,))}, edge.now)
    edge.run(1)
    assert edge.socket(2, 0x86DD).groups == {mac}
    edge.layer2.set({}, edge.now)
    edge.run(0)
    assert edge.groups.joined == set()


def test_a_group_left_and_taken_again_is_joined(edge: Edge) -> None:
    edge.layer2.set(group(V6), edge.now)
    edge.layer2.set({}, edge.now)
    edge.layer2.set(group(V6), edge.now)
    edge.run(1)
    assert edge.socket(2, 0x86DD).groups == {ndp.multicast_mac(ndp.solicited_node(packed(V6)))}
    assert len(edge.hear(asks(V6))) == 1


def test_a_turn_is_bounded_under_a_flood(edge: Edge) -> None:
    edge.layer2.set(group(V4, check=False), edge.now)
    sock = edge.socket(2, 0x0806)
    sock.sent.clear()
    for _ in range(3 * BATCH):
        sock.deliver(asks(V4))
    edge.watched[sock.fileno()](edge.now)
    assert len(sock.sent) == BATCH


def test_a_kernel_that_is_slow_to_join_is_given_less_in_a_turn(edge: Edge) -> None:
    """Joining costs the more the more groups there are; and it becomes cheap again."""
    cost = 0.001

    class Slow(FakeSocket):
        def join(self, mac: bytes) -> None:
            end = time.thread_time() + cost
            while time.thread_time() < end:
                pass
            super().join(mac)

    def open_slow(*what: Any) -> FakeSocket:
        edge.sockets.append(Slow(*what))
        return edge.sockets[-1]

    edge.open = open_slow  # type: ignore[method-assign]
    addresses = [f"fd09::{n:x}" for n in range(0x1000, 0x1000 + 120)]
    edge.layer2.set({a: api.OwnedGroup(a, (a,), check=False) for a in addresses[:60]}, edge.now)
    sock = edge.sockets[0]
    joined = []
    while edge.layer2.behind():
        before = len(sock.groups)
        edge.layer2.on_deadline(edge.now)
        joined.append(len(sock.groups) - before)
    assert len(sock.groups) == 60
    assert max(joined[3:]) <= 2  # two when the one before was quick by chance
    assert not edge.layer2.behind()
    cost = 0.0
    edge.layer2.set({a: api.OwnedGroup(a, (a,), check=False) for a in addresses}, edge.now)
    joined = []
    while edge.layer2.behind():
        before = len(sock.groups)
        edge.layer2.on_deadline(edge.now)
        joined.append(len(sock.groups) - before)
    assert max(joined) > 3
    assert len(sock.groups) == 120


def test_a_full_send_queue_costs_one_answer_and_is_counted(edge: Edge) -> None:
    edge.layer2.set(group(V4, check=False), edge.now)
    sock = edge.socket(2, 0x0806)
    edge.run(1)
    before = edge.layer2.counters()["responses_sent", V4]
    sock.full = BlockingIOError(errno.EAGAIN, "full")
    assert edge.hear(asks(V4)) == edge.hear(asks(V4)) == []
    assert edge.layer2.counters()["responses_sent", V4] == before
    assert edge.layer2.counters()["requests_received", V4] == 2
    assert edge.layer2.drops()["eth0", "sendFailed"] == 2
    sock.full = None
    assert len(edge.hear(asks(V4))) == 1


def test_an_interface_that_goes_down_is_no_crash(edge: Edge) -> None:
    edge.layer2.set(group(V4, check=False), edge.now)
    sock = edge.socket(2, 0x0806)
    sock.failure = OSError(errno.ENETDOWN, "Network is down")
    edge.watched[sock.fileno()](edge.now)
    edge.run(5)
    assert edge.layer2.drops()["eth0", "sendFailed"] > 0
    sock.failure = None
    assert len(edge.hear(asks(V4))) == 1


def test_a_vanished_interface_is_let_go_and_its_successor_taken(edge: Edge) -> None:
    edge.layer2.set(group(V4, check=False), edge.now)
    old = edge.socket(2, 0x0806)
    edge.links(Snapshot())
    assert old.closed
    assert edge.watched == {}
    edge.links(Snapshot(LINKS, NETWORKS))
    edge.run(0)
    assert len(edge.hear(asks(V4), 2)) == len(edge.hear(asks(V4), 3)) == 1


def test_sockets_that_cannot_be_opened_are_tried_again(edge: Edge) -> None:
    edge.refuse = OSError(errno.ENODEV, "No such device")
    edge.layer2.set(group(V4, check=False), edge.now)
    assert edge.sockets == []
    edge.run(REOPEN / 2)
    edge.refuse = None
    edge.run(REOPEN)
    assert len(edge.hear(asks(V4))) == 1


def test_what_could_not_be_announced_is_not_answered_for_and_is_announced_when_sockets_open(edge: Edge) -> None:
    edge.refuse = OSError(errno.ENOBUFS, "No buffer space available")
    edge.layer2.set(group(V4, check=False), edge.now)
    edge.run(REOPEN / 2)
    assert not edge.layer2.behind()
    assert not edge.layer2.answers(V4)
    edge.refuse = None
    edge.run(REOPEN / 2)
    assert edge.layer2.answers(V4)
    assert not edge.layer2.answers(V6)
    edge.run(0.01)
    assert len(edge.socket(2, 0x0806).sent) == 2, "at once, not when the schedule comes to it"


def test_a_second_socket_that_fails_closes_the_first(edge: Edge) -> None:
    calls = itertools.count()

    def open_one(name: str, index: int, ether_type: int) -> FakeSocket:
        if next(calls) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        edge.sockets.append(FakeSocket(name, index, ether_type))
        return edge.sockets[-1]

    edge.open = open_one  # type: ignore[method-assign]
    edge.layer2.set(group(V4, V6, check=False), edge.now)
    assert [s.closed for s in edge.sockets] == [True]
    assert edge.watched == {}
    edge.run(2 * REOPEN)
    assert [s.closed for s in edge.sockets] == [True, False, False]


def test_a_refused_filter_is_made_smaller(edge: Edge) -> None:
    class Small(FakeSocket):
        def load(self, program: bpf.Block) -> None:
            if len(program) > 300:
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            super().load(program)

    small: list[Small] = []

    def open_small(*what: Any) -> FakeSocket:
        small.append(Small(*what))
        return small[-1]

    edge.open = open_small  # type: ignore[method-assign]
    addresses = [f"10.9.{n // 100}.{2 * (n % 100)}" for n in range(600)]
    edge.layer2.set({a: api.OwnedGroup(a, (a,), check=False) for a in addresses}, edge.now)
    edge.run(5)
    [sock] = small
    program = sock.program
    assert len(program) <= 300
    assert all(cbpf.run(program, asks(a), ifindex=2)[0] for a in addresses)


def test_after_a_pause_what_was_queued_is_forgotten(edge: Edge) -> None:
    edge.layer2.set(group(V4, V6, check=False), edge.now)
    edge.run(1)
    for address, kind in ((V4, 0x0806), (V6, 0x86DD)):
        sock = edge.socket(2, kind)
        sock.sent.clear()
        for _ in range(10):
            sock.deliver(asks(address))
    edge.layer2.drain(edge.now)
    for kind in (0x0806, 0x86DD):
        sock = edge.socket(2, kind)
        edge.watched[sock.fileno()](edge.now)
        assert sock.sent == []
    assert len(edge.hear(asks(V4))) == 1


def test_a_foreign_claim_is_acted_on_in_the_same_turn(edge: Edge) -> None:
    edge.layer2.set(group(V4), edge.now)
    edge.run(10)
    edge.layer2.events()
    assert len(edge.hear(claims(V4, "02:00:00:00:00:99"))) == 2  # defended: both forms
    assert [type(event) for event in edge.layer2.events()] == [api.Conflict]


def test_closing_lets_everything_go(edge: Edge) -> None:
    edge.layer2.set(group(V4, V6), edge.now)
    edge.layer2.close()
    assert edge.watched == {}
    assert all(sock.closed for sock in edge.sockets)


def test_on_readable_by_descriptor(edge: Edge) -> None:
    edge.layer2.set(group(V4, check=False), edge.now)
    sock = edge.socket(2, 0x0806)
    sock.sent.clear()
    sock.deliver(asks(V4))
    edge.layer2.on_readable(sock.fileno(), edge.now)
    edge.layer2.on_readable(99999, edge.now)
    assert len(sock.sent) == 1


def test_the_real_thing_and_the_fake_have_the_same_verbs() -> None:
    real: api.Layer2 = Edge().layer2
    fake: api.Layer2 = FakeLayer2()
    verbs = {name for name in dir(api.Layer2) if not name.startswith("_")}
    for thing in (real, fake):
        assert all(callable(getattr(thing, verb)) for verb in verbs)
    fake.open(0.0)
    fake.set(group(V4, V6), 0.0)
    assert fake.events() == [
        api.InterfacesChanged(("eth0",)),
        api.Announcing(V4, "eth0"),
        api.Announcing(V6, "eth0"),
    ]
    assert set(fake.status()) <= set(real.status())


def test_a_socket_is_opened_under_the_name_that_an_interface_has_now(edge: Edge) -> None:
    """Down, renamed and up between two pictures: in the next one only the name is another."""
    edge.layer2.set(group(V4), edge.now)
    edge.run(GRACE)
    edge.links(Snapshot((replace(LINKS[0], name="lan0"),), NETWORKS))
    opened, real = [], edge.open

    def named(name: str, index: int, ether_type: int) -> FakeSocket:
        opened.append(name)
        if name != "lan0":
            raise OSError(errno.ENODEV, "No such device")
        return real(name, index, ether_type)

    edge.open = named  # type: ignore[method-assign]
    edge.layer2.set({**group(V4), **group(V6)}, edge.now)
    edge.run(GRACE)
    assert opened == ["lan0"]
    assert len(edge.hear(asks(V4))) == len(edge.hear(asks(V6))) == 1
