"""BGP inside the announcer: items in; sessions, series, logs and problems out. The edge is a fake."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_common.obs.metrics import Registry
from metallb_speaker.announcer.bfd.session import Session
from metallb_speaker.announcer.bfd.wire import Packet
from metallb_speaker.announcer.bfd.wire import State as BfdState
from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.bgp.wire.messages import Notification
from metallb_speaker.announcer.edge import addresses
from metallb_speaker.announcer.record import Record
from metallb_speaker.announcer.routing import Routing, router_id
from metallb_speaker.desired import BgpPeer, BgpRoute, Item

from .pair import HOPS_A, HOPS_B, settings_b
from .test_speaker import FAST, PEER, route


@dataclass
class FakeEdge:
    listening: dict[str, str] = field(default_factory=dict)
    turns: int = 0
    trouble: dict[str, str] = field(default_factory=dict)

    def act(self, now: float) -> None:
        self.turns += 1

    def listen_for(self, peers: Mapping[str, str]) -> None:
        self.listening = dict(peers)

    def problems(self) -> Mapping[str, str]:
        return self.trouble

    def close(self) -> None:
        self.listening = {}


class Bench:
    def __init__(self) -> None:
        self.registry = Registry(process=False)
        gauge = self.registry.gauge("metallb_speaker_announced", "x", ("service", "protocol", "node", "ip"))
        self.reports: list[object] = []

        def report(value: object) -> bool:
            self.reports.append(value)
            return True

        self.warned: list[tuple[str, str]] = []
        self.machine = BgpSpeaker(ipaddress.IPv4Address("192.0.2.1"), random.Random(1))
        self.edge = FakeEdge()
        self.items: dict[tuple[str, str], Item] = {}
        record = Record("node1", gauge, report)
        self.routing = Routing(self.machine, self.edge, record, lambda r, m: self.warned.append((r, m)))
        self.registry.collector(self.routing.metrics)

    def apply(self, *items: BgpPeer | BgpRoute, now: float = 0) -> None:
        """The whole set, sent as a change of what was."""
        keyed: dict[tuple[str, str], Item] = {(type(i).__name__, i.key): i for i in items}
        keyed["BfdTimers", FAST.key] = FAST
        put = [item for key, item in keyed.items() if self.items.get(key) != item]
        self.routing.change(put, self.items.keys() - keyed.keys(), {})
        self.routing.commit(now)
        self.items = keyed

    def value(self, name: str, *labels: str) -> float | None:
        return self.registry.value(name, *labels)

    def establish(self, **theirs: object) -> None:
        """Shake hands with a second machine."""
        from metallb_speaker.announcer.bgp.neighbor import Neighbor

        other = Neighbor(settings_b(**theirs), random.Random(2))
        ((_, dial),) = self.machine.actions()
        assert isinstance(dial, Dial)
        ours = self.machine.neighbor("tor")
        token = other.accepted(HOPS_B, 0)
        assert ours is not None
        assert token is not None
        ours.dialed(dial.token, HOPS_A, 0)
        for _ in range(4):
            for source, st_, target, tt in ((ours, dial.token, other, token), (other, token, ours, dial.token)):
                data = source.pending(st_)
                source.sent(st_, len(data), 0)
                target.receive(tt, data, 0)
        self.routing.turn(0)
        self.dial = dial.token


def test_announced_series_come_and_go_with_routes() -> None:
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    assert bench.value("metallb_speaker_announced", "default/web", "bgp", "node1", "203.0.113.1") == 1
    bench.apply(PEER)
    assert bench.value("metallb_speaker_announced", "default/web", "bgp", "node1", "203.0.113.1") is None


def test_session_series_end_with_the_peer() -> None:
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    assert bench.value("metallb_bgp_session_up", "192.0.2.2:179") == 0
    assert bench.value("metallb_bgp_pending_prefixes_total", "192.0.2.2:179") == 1
    bench.establish()
    assert bench.value("metallb_bgp_session_up", "192.0.2.2:179") == 1
    assert bench.value("metallb_bgp_announced_prefixes_total", "192.0.2.2:179") == 1
    assert bench.value("metallb_bgp_updates_total", "192.0.2.2:179") == 1
    assert bench.value("metallb_bfd_session_up", "192.0.2.2") == 0
    bench.apply()
    assert bench.value("metallb_bgp_session_up", "192.0.2.2:179") is None
    assert bench.value("metallb_bfd_session_up", "192.0.2.2") is None


def test_a_lost_session_warns_the_node_and_shows_in_problems() -> None:
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    bench.machine.neighbor("tor").receive(bench.dial, None, 20)  # type: ignore[union-attr]
    bench.routing.turn(20)
    ((reason, message),) = bench.warned
    assert reason == "bgpSessionDown"
    assert "tor (192.0.2.2:179)" in message
    assert any("connection closed by the peer" in p for p in bench.routing.problems())


def test_listening_follows_the_peers_and_its_trouble_is_told() -> None:
    bench = Bench()
    bench.apply(replace(PEER, listen=True, password="k"))
    assert bench.edge.listening == {"192.0.2.2": "k"}
    bench.edge.trouble = {"IPv4": "cannot listen on port 179: address in use"}
    assert "IPv4: cannot listen on port 179: address in use" in bench.routing.problems()
    bench.apply(PEER)
    assert bench.edge.listening == {}


def test_leaving_is_done_when_every_peer_was_told() -> None:
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    bench.routing.leave(30)
    assert not bench.routing.left
    bench.routing.on_deadline(31.5)
    bench.routing.turn(31.5)
    bench.machine.actions()
    assert bench.routing.left
    assert bench.warned == []


def test_with_graceful_restart_tcp_closes_silently_and_bfd_says_admin_down_after_it() -> None:
    bench = Bench()
    bench.apply(replace(PEER, graceful_restart=15), route("203.0.113.1/32"))
    bench.establish(graceful_restart=15)
    session = bench.machine.bfd("tor")
    assert session is not None
    session.receive(Packet(BfdState.DOWN, 0, 3, 7, 0, 50_000, 50_000), 20)
    session.receive(Packet(BfdState.UP, 0, 3, 7, session.discriminator, 50_000, 50_000), 20)
    assert session.state is BfdState.UP
    bench.routing.turn(20)
    bench.routing.leave(30)
    ((_, hangup),) = bench.machine.actions()
    assert hangup == Hangup(bench.dial, b""), "a NOTIFICATION would end graceful restart"
    assert session.state is BfdState.UP
    assert not bench.routing.left
    bench.routing.on_deadline(30.11)
    bench.routing.turn(30.11)
    assert Packet.decode(session.pending()[-1]).state is BfdState.ADMIN_DOWN
    assert bench.routing.left


def bfd_up(bench: Bench, now: float) -> Session:
    session = bench.machine.bfd("tor")
    assert session is not None
    session.receive(Packet(BfdState.DOWN, 0, 3, 7, 0, 50_000, 50_000), now)
    session.receive(Packet(BfdState.UP, 0, 3, 7, session.discriminator, 50_000, 50_000), now)
    assert session.state is BfdState.UP
    bench.routing.turn(now)
    session.pending()
    return session


def heard(session: Session, now: float) -> None:
    session.receive(Packet(BfdState.UP, 0, 3, 7, session.discriminator, 50_000, 50_000), now)


def test_bfd_outlives_the_wait_between_graceful_shutdown_and_cease() -> None:
    """Most routers end BGP on AdminDown: said first, it would take the routes away before traffic has moved."""
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    session = bfd_up(bench, 29.9)
    bench.routing.leave(30)
    assert session.state is BfdState.UP
    heard(session, 31)
    bench.routing.on_deadline(31)
    bench.routing.turn(31)
    ((_, hangup),) = bench.machine.actions()
    assert hangup.last[-26:-24] == bytes((6, 2))  # type: ignore[union-attr]
    assert session.state is BfdState.UP
    assert not bench.routing.left
    bench.routing.on_deadline(31.11)
    bench.routing.turn(31.11)
    assert Packet.decode(session.pending()[-1]).state is BfdState.ADMIN_DOWN
    assert bench.routing.left


def test_a_removed_peer_gets_a_hard_reset_where_notifications_would_keep_routes() -> None:
    bench = Bench()
    bench.apply(replace(PEER, graceful_restart=15), route("203.0.113.1/32"))
    bench.establish(graceful_restart=15)
    session = bfd_up(bench, 29.9)
    bench.apply(route("203.0.113.1/32"), now=30)
    assert bench.machine.bfd("tor") is session, "BFD goes after BGP"
    heard(session, 31)
    bench.routing.on_deadline(31)
    bench.routing.turn(31)
    ((_, hangup),) = bench.machine.actions()
    assert hangup.last[-4:] == bytes((6, 9, 6, 3))  # type: ignore[union-attr]
    assert not bench.machine.ending_bfd()
    bench.routing.on_deadline(31.11)
    bench.routing.turn(31.11)
    ((_, ending),) = bench.machine.ending_bfd()
    assert ending is session
    assert Packet.decode(session.pending()[-1]).state is BfdState.ADMIN_DOWN
    assert bench.machine.bfd("tor") is None
    assert bench.machine.neighbor("tor") is None


def test_a_removed_peer_may_come_back_while_it_is_being_left() -> None:
    """Its old connection ends at once, and is never taken for the new one's."""
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    old_dial, old_bfd = bench.dial, bfd_up(bench, 29.9)
    bench.apply(route("203.0.113.1/32"), now=30)
    bench.apply(PEER, route("203.0.113.1/32"), now=30.5)
    (_, hangup), (_, dial) = bench.machine.actions()
    assert isinstance(hangup, Hangup)
    assert hangup.token == old_dial
    assert hangup.last[-2:] == bytes((6, 3))
    assert isinstance(dial, Dial)
    assert dial.token != old_dial
    assert bench.machine.bfd("tor") is not old_bfd
    bench.routing.turn(40)
    assert bench.machine.neighbor("tor") is not None
    assert bench.routing.status()[0]["state"] == "Connect"


def test_what_concerns_this_side_alone_leaves_the_session() -> None:
    """Time between attempts and keepalives, listening, BFD's profile and port."""
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    session = bfd_up(bench, 1)
    neighbor = bench.machine.neighbor("tor")
    assert neighbor is not None
    assert neighbor.connection is not None
    neighbor.connection.pending()
    bench.apply(replace(PEER, connect_time=7, keepalive_time=2, listen=True), route("203.0.113.1/32"), now=1)
    assert bench.machine.actions() == []
    assert neighbor.settings.connect_time == 7
    assert neighbor.connection.negotiated is not None
    assert neighbor.connection.negotiated.keepalive_time == 2
    assert neighbor.connection.deadline() <= 3, "the next keepalive is early"
    assert bench.machine.bfd("tor") is session
    bench.apply(replace(PEER, multihop=True), route("203.0.113.1/32"), now=2)
    assert bench.machine.actions() == []
    assert bench.machine.bfd("tor") is not session, "another port of BFD is another session"
    assert neighbor.state.value == "Established"
    bench.apply(replace(PEER, multihop=True, hold_time=30), route("203.0.113.1/32"), now=3)
    assert neighbor.state.value != "Established", "an OPEN tells the hold time"


def test_bfd_is_made_anew_for_a_peer_at_another_address() -> None:
    bench = Bench()
    bench.apply(PEER)
    bench.establish()
    session = bfd_up(bench, 20)
    bench.apply(replace(PEER, address="192.0.2.9"), now=21)
    ((old, ending),) = bench.machine.ending_bfd()
    assert (ending, old.address) == (session, "192.0.2.2")
    assert bench.machine.bfd("tor") is not session
    bench.apply(replace(PEER, address="192.0.2.9", password="x"), now=22)
    assert not bench.machine.ending_bfd()


def test_the_identifier_is_the_nodes_address_or_made_of_its_name() -> None:
    assert str(router_id("node1", "192.0.2.9")) == "192.0.2.9"
    made = router_id("node1", "2001:db8::9")
    assert int(made) != 0
    assert made == router_id("node1", "")
    assert made != router_id("node2", "")


def own(index: int, address: str, length: int = 64, flags: int = 0) -> addresses.Own:
    return addresses.Own(index, ipaddress.ip_address(address), length, flags)


def test_the_other_familys_next_hop_is_on_the_same_interface() -> None:
    found = [
        own(2, "192.0.2.1", 24),
        own(3, "2001:db8:3::1"),
        own(2, "2001:db8:2::9", flags=addresses.IFA_F_DEPRECATED),
        own(2, "2001:db8:2::1"),
    ]
    mine = ipaddress.ip_address("192.0.2.1")
    assert addresses.choose(mine, found) == {"ipv4": mine, "ipv6": ipaddress.ip_address("2001:db8:2::1")}
    assert addresses.choose(ipaddress.ip_address("2001:db8:3::1"), found)["ipv4"] is None


def test_of_several_the_oldest_that_is_not_floating() -> None:
    """The kernel lists IPv6 addresses with the newest first; a floating one has no prefix beside itself."""
    found = [own(2, "192.0.2.1", 24), own(2, "2001:db8::99", 128), own(2, "2001:db8::7"), own(2, "2001:db8::1")]
    assert str(addresses.choose(found[0].address, found)["ipv6"]) == "2001:db8::1"
    assert str(addresses.choose(found[0].address, found[:2])["ipv6"]) == "2001:db8::99"
    ipv4 = [own(2, "2001:db8::1"), own(2, "192.0.2.50", 32), own(2, "192.0.2.1", 24), own(2, "192.0.2.2", 24)]
    assert str(addresses.choose(ipv4[0].address, ipv4)["ipv4"]) == "192.0.2.1"


def test_the_kernels_own_answer_has_no_loopback() -> None:
    found = addresses.read()
    assert all(not entry.address.is_loopback and not entry.address.is_link_local for entry in found)


@given(st.binary(max_size=200))
def test_any_netlink_octets_are_taken(data: bytes) -> None:
    assert isinstance(addresses.parse(data), list)


def logged(capsys: pytest.CaptureFixture[str], event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line.get("event") == event]


def test_the_log_tells_of_peers_routes_and_what_a_peer_said(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    bench.apply(PEER, route("203.0.113.1/32"))
    bench.establish()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {line.get("event"): line for line in lines}
    assert {"peerAdded", "updatedAdvertisements", "sessionUp"} <= told.keys()
    assert told["updatedAdvertisements"]["numAds"] == 1
    bench.apply(PEER, route("203.0.113.1/32"))
    assert capsys.readouterr().out == "", "nothing has changed"
    neighbor = bench.machine.neighbor("tor")
    assert neighbor is not None
    neighbor.receive(bench.dial, Notification.shutdown("going home").encode(), 5)
    bench.routing.turn(5)
    (said,) = logged(capsys, "peerNotification")
    assert (said["peer"], said["level"]) == ("tor", "warn")
    assert "going home" in str(said["reason"])
    bench.routing.change([], [("BgpPeer", "tor")], {"BgpPeer tor": "filteredByNodeSelector"})
    (removed,) = logged(capsys, "peerRemoved")
    assert removed["reason"] == "filteredByNodeSelector"
