"""Two whole neighbours against each other: sessions, routes, losses, collisions, leaving."""

from __future__ import annotations

import ipaddress
import random

import pytest

from metallb_speaker.announcer.bgp.fsm import TABLE, Event, IllegalEvent, State, step
from metallb_speaker.announcer.bgp.neighbor import AttemptFailed, Dial, Hangup, Neighbor, SessionDown, SessionUp
from metallb_speaker.announcer.bgp.rib import GRACEFUL_SHUTDOWN, RouteAttributes
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE
from metallb_speaker.announcer.bgp.wire.messages import Notification, RouteRefresh
from metallb_speaker.announcer.bgp.wire.prefix import prefix_of
from tests.unit.speaker.bgp.sessions import (
    established,
    net,
    routes,
)

from .pair import HOPS_A, Pair, settings, settings_b


def test_a_session_comes_up_and_both_sides_say_so() -> None:
    pair = established()
    assert pair.events["a"] == [SessionUp()]
    assert pair.events["b"] == [SessionUp()]


def test_routes_of_both_families_travel_with_the_own_next_hop() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.7/32", "2001:db8:1::7/128", communities=((64512, 1),)), 0)
    pair.settle()
    got = {n: u for u in pair.updates_from("a") for n in u.announced}
    assert set(got) == {net("203.0.113.7/32"), net("2001:db8:1::7/128")}
    v4, v6 = got[net("203.0.113.7/32")], got[net("2001:db8:1::7/128")]
    assert str(v4.next_hop) == "192.0.2.1"
    assert str(v6.next_hop) == "2001:db8::1"
    assert v4.attributes is not None
    assert v4.attributes.as_path == (64512,)
    assert v4.attributes.local_pref is None  # eBGP
    assert v4.attributes.communities == ((64512, 1),)


def test_local_pref_is_sent_to_internal_peers_only() -> None:
    pair = Pair.make(settings(peer_asn=64512), settings_b(my_asn=64512))
    pair.a.set_routes(routes("203.0.113.7/32", local_pref=150), 0)
    pair.a.start(0)
    pair.settle()
    (route,) = [u for u in pair.updates_from("a") if u.announced]
    assert route.attributes is not None
    assert route.attributes.local_pref == 150
    assert route.attributes.as_path == ()


def test_only_differences_are_sent() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32", "203.0.113.2/32"), 0)
    pair.settle()
    pair.carried["a"].clear()
    pair.a.set_routes(routes("203.0.113.2/32", "203.0.113.3/32"), 0)
    pair.settle()
    sent = pair.updates_from("a")
    assert [n for u in sent for n in u.announced] == [net("203.0.113.3/32")]
    assert [n for u in sent for n in u.withdrawn] == [net("203.0.113.1/32")]
    pair.carried["a"].clear()
    pair.a.set_routes(routes("203.0.113.2/32", "203.0.113.3/32"), 0)
    pair.settle()
    assert pair.carried["a"] == b""


def test_end_of_rib_follows_the_first_routes() -> None:
    pair = Pair.make()
    pair.a.set_routes(routes("203.0.113.1/32"), 0)
    pair.a.start(0)
    pair.settle()
    kinds = [u.end_of_rib or "route" for u in pair.updates_from("a")]
    assert kinds == ["route", "ipv4", "ipv6"]


def test_ten_thousand_routes_arrive_whole() -> None:
    pair = established()
    many = {prefix_of(ipaddress.ip_network((0x0A000000 + i, 32))): RouteAttributes() for i in range(10_000)}
    pair.a.set_routes(many, 0)
    pair.settle()
    assert {prefix_of(n) for u in pair.updates_from("a") for n in u.announced} == set(many)
    assert pair.a.rib.advertised == 10_000


def test_hold_time_expires_when_the_cable_is_pulled() -> None:
    pair = Pair.make(settings(hold_time=9, keepalive_time=3), settings_b(hold_time=30))
    pair.a.start(0)
    pair.run(5)
    pair.cut()
    pair.run(9.1)
    assert any(isinstance(e, SessionDown) and "hold timer" in e.reason for e in pair.events["a"])
    assert any(isinstance(e, SessionDown) and "hold timer" in e.reason for e in pair.events["b"])


def test_keepalives_hold_a_quiet_session_for_an_hour() -> None:
    pair = Pair.make(settings(hold_time=3, keepalive_time=1), settings_b())
    pair.a.start(0)
    pair.run(3600)
    assert pair.events["a"] == [SessionUp()]


def test_hold_time_zero_sends_no_keepalive_and_never_expires() -> None:
    pair = Pair.make(settings(hold_time=0), settings_b())
    pair.a.start(0)
    pair.run(1)
    pair.carried["a"].clear()
    pair.run(10_000)
    assert pair.carried["a"] == b""
    assert pair.events["a"] == [SessionUp()]


def test_attempts_back_off_and_then_succeed() -> None:
    pair = Pair.make(b_listens=False)
    pair.a.start(0)
    pair.run(200)
    failed = [e for e in pair.events["a"] if isinstance(e, AttemptFailed)]
    assert 5 <= len(failed) <= 10  # 1, 2, 4, ... up to 60 s, with jitter
    assert "connection refused" in pair.a.last_error
    pair.b_listens = True
    pair.run(61)
    assert pair.a.state is State.ESTABLISHED


def test_an_attempt_that_hangs_is_given_up() -> None:
    neighbor = Neighbor(settings(), random.Random(3))
    neighbor.start(0)
    (dial,) = neighbor.actions()
    assert isinstance(dial, Dial)
    neighbor.on_deadline(neighbor.deadline())
    assert "timed out" in neighbor.last_error
    neighbor.dialed(dial.token, HOPS_A, 11)  # too late: it is closed again
    assert neighbor.state is not State.OPEN_SENT


def test_routes_are_sent_again_after_a_lost_session() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32"), 0)
    pair.settle()
    pair.run(20)
    link = pair.links[0]
    pair.links.clear()
    link[0].receive(link[1], None, pair.now)
    link[2].receive(link[3], None, pair.now)
    pair.carried["a"].clear()
    pair.run(2)
    assert pair.a.state is State.ESTABLISHED
    assert [n for u in pair.updates_from("a") for n in u.announced] == [net("203.0.113.1/32")]


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (settings(peer_asn=65000), settings_b(), "bad peer AS"),
        (settings(peer_asn="internal"), settings_b(), "bad peer AS"),
        (settings(my_asn=64513, peer_asn="external"), settings_b(peer_asn=64513), "bad peer AS"),
        (
            settings(my_asn=64513, peer_asn=64513),
            settings_b(peer_asn=64513, identifier=ipaddress.IPv4Address("192.0.2.1")),
            "bad BGP identifier",
        ),
    ],
)
def test_a_wrong_neighbour_is_refused(a: object, b: object, reason: str) -> None:
    pair = Pair.make(a, b)  # type: ignore[arg-type]
    pair.a.start(0)
    pair.run(0.5)
    assert pair.a.state is not State.ESTABLISHED
    texts = [e.reason for e in pair.events["a"] + pair.events["b"] if isinstance(e, AttemptFailed)]
    assert any(reason in t for t in texts), texts


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_collision_keeps_the_connection_of_the_higher_identifier(first: str) -> None:
    pair = Pair.make(a_listens=True)
    sides = [pair.a, pair.b] if first == "a" else [pair.b, pair.a]
    for side in sides:
        side.start(0)
    pair.settle()
    pair.run(5)
    assert pair.a.state is State.ESTABLISHED
    assert pair.b.state is State.ESTABLISHED
    assert len(pair.links) == 1
    assert pair.links[0][0] is pair.b  # 192.0.2.2 is the higher identifier: the connection it opened stays


def test_leaving_without_graceful_restart_says_so_first() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32"), 0)
    pair.settle()
    pair.carried["a"].clear()
    pair.a.stop(pair.now, text="rolling update")
    pair.settle()
    (last,) = [u for u in pair.updates_from("a") if u.announced]
    assert last.attributes is not None
    assert GRACEFUL_SHUTDOWN in last.attributes.communities
    pair.run(0.9)
    assert pair.b.state is State.ESTABLISHED, "time for the peer to move traffic"
    pair.run(0.2)
    assert pair.a.stopped
    (down,) = [e for e in pair.events["b"] if isinstance(e, SessionDown)]
    assert "administrative shutdown: rolling update" in down.reason


def test_leaving_with_graceful_restart_sends_no_notification() -> None:
    pair = Pair.make(settings(graceful_restart=15), settings_b(graceful_restart=15))
    pair.a.start(0)
    pair.settle()
    pair.carried["a"].clear()
    pair.a.stop(0)
    pair.settle()
    assert pair.carried["a"] == b""
    assert pair.a.stopped


def test_a_removed_peer_is_told_so() -> None:
    pair = established()
    pair.a.stop(0, deconfigured=True)
    pair.run(1.1)
    assert any(isinstance(e, SessionDown) and "de-configured" in e.reason for e in pair.events["b"])


def test_a_changed_setting_resets_the_session() -> None:
    pair = established()
    pair.a.reconfigure(settings(hold_time=30), 0)
    pair.run(2)
    assert pair.a.state is State.ESTABLISHED
    assert pair.a.connection is not None
    assert pair.a.connection.negotiated is not None
    assert pair.a.connection.negotiated.hold_time == 30


def test_bfd_down_ends_the_session_and_dials_again() -> None:
    pair = established()
    pair.run(15)
    pair.a.reset(pair.now, bfd=True)
    pair.settle()
    assert any(isinstance(e, SessionDown) and "BFD" in e.reason for e in pair.events["a"])
    pair.run(2)
    assert pair.a.state is State.ESTABLISHED


def test_route_refresh_sends_a_family_again() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    pair.settle()
    pair.carried["a"].clear()
    link = pair.links[0]
    pair.a.receive(link[1], RouteRefresh("ipv6").encode(), 0)
    pair.settle()
    data, kinds, position = bytes(pair.carried["a"]), [], 0
    while position < len(data):
        kinds.append(data[position + 18])
        position += int.from_bytes(data[position + 16 : position + 18])
    assert kinds == [5, 2, 5]  # BoRR, the route, EoRR (RFC 7313)


def test_a_peer_that_never_reads_costs_bounded_memory_and_is_dropped() -> None:
    neighbor = Neighbor(settings(hold_time=90), random.Random(5))
    peer = Neighbor(settings_b(), random.Random(6))
    neighbor.start(0)
    (dial,) = neighbor.actions()
    token = peer.accepted(HOPS_A, 0)
    assert token is not None
    neighbor.dialed(dial.token, HOPS_A, 0)
    for _ in range(4):
        for source, st, target, tt in ((neighbor, dial.token, peer, token), (peer, token, neighbor, dial.token)):
            data = source.pending(st)
            source.sent(st, len(data), 0)
            target.receive(tt, data, 0)
    assert neighbor.state is State.ESTABLISHED
    for turn in range(60):  # churn that the peer never takes
        start = 0x0A000000 + (turn << 12)
        many = {prefix_of(ipaddress.ip_network((start + i, 32))): RouteAttributes() for i in range(4096)}
        neighbor.set_routes(many, float(turn))
    assert neighbor.connection is not None
    assert neighbor.connection.backlog < 1 << 20
    now = 200.0
    while now < 1200 and neighbor.state is State.ESTABLISHED:
        now += 20
        neighbor.receive(dial.token, KEEPALIVE, now)  # alive, and yet takes nothing
        neighbor.on_deadline(now)
    assert any(isinstance(e, SessionDown) and "send hold timer" in e.reason for e in neighbor.events())


@pytest.mark.parametrize(("hold_time", "patience"), [(90, 480), (600, 1200), (0, 0)])
def test_the_send_hold_timer_counts_from_the_last_octet_that_was_taken(hold_time: int, patience: int) -> None:
    """RFC 9687 section 4: eight minutes or twice the hold time, the greater; none without a hold timer."""
    pair = Pair.make(settings(hold_time=hold_time), settings_b(hold_time=hold_time))
    pair.a.start(0)
    pair.settle()
    (link,) = pair.links
    pair.links.clear()  # from here on octets are carried by hand
    many = {prefix_of(ipaddress.ip_network((0x0A000000 + i, 32))): RouteAttributes() for i in range(5000)}
    pair.a.set_routes(many, 10)
    pair.a.sent(link[1], 1000, 50)  # slow, but alive
    now = 50.0
    while pair.a.state is State.ESTABLISHED and now < 2000:
        now += 10
        pair.a.receive(link[1], KEEPALIVE, now)
        pair.a.on_deadline(now)
    if patience:
        assert now == 50 + patience
        (hangup,) = [action for action in pair.a.actions() if isinstance(action, Hangup)]
        assert hangup.last == b"", "a NOTIFICATION would only be stuck behind the rest"
    else:
        assert pair.a.state is State.ESTABLISHED


def test_extended_next_hop_carries_ipv4_over_ipv6() -> None:
    pair = established()
    pair.a._next_hops[pair.a._session or 0] = {"ipv4": None, "ipv6": ipaddress.ip_address("2001:db8::1")}
    pair.a.set_routes(routes("203.0.113.1/32"), 0)
    pair.settle()
    (route,) = [u for u in pair.updates_from("a") if u.announced]
    assert str(route.next_hop) == "2001:db8::1"


def test_ipv4_waits_for_an_address_where_the_peer_takes_no_ipv6_next_hop() -> None:
    pair = Pair.make(b=settings_b(families=("ipv6",)))  # it offers RFC 8950 with IPv4 alone
    pair.a.start(0)
    pair.settle()
    assert pair.a.connection is not None
    assert pair.a.connection.negotiated is not None
    assert not pair.a.connection.negotiated.extended_next_hop
    pair.a._next_hops[pair.a._session or 0] = {"ipv4": None, "ipv6": ipaddress.ip_address("2001:db8::1")}
    assert pair.a.usable_next_hops()["ipv4"] is None


def test_a_family_without_a_next_hop_is_not_advertised() -> None:
    pair = established()
    pair.a._next_hops[pair.a._session or 0] = {"ipv4": ipaddress.ip_address("192.0.2.1"), "ipv6": None}
    pair.a.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    pair.settle()
    assert [n for u in pair.updates_from("a") for n in u.announced] == [net("203.0.113.1/32")]
    assert (pair.a.rib.desired, pair.a.rib.advertised) == (2, 1)


def test_an_address_that_comes_later_brings_the_routes_of_its_family() -> None:
    pair = established()
    hops = pair.a._next_hops[pair.a._session or 0]
    pair.a._next_hops[pair.a._session or 0] = {"ipv4": hops["ipv4"], "ipv6": None}
    pair.a.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    pair.settle()
    assert pair.a.lacks_next_hop
    pair.carried["a"].clear()
    pair.a.set_next_hops({"ipv4": hops["ipv4"], "ipv6": None}, 1)
    pair.settle()
    assert pair.carried["a"] == b"", "nothing has changed"
    pair.a.set_next_hops(hops, 2)
    pair.settle()
    assert [n for u in pair.updates_from("a") for n in u.announced] == [net("2001:db8:1::7/128")]
    assert not pair.a.lacks_next_hop
    assert pair.a.rib.advertised == 2


def test_an_address_that_goes_takes_the_routes_of_its_family_with_it() -> None:
    """Their next hop is not ours any more: it leads nowhere, or to somebody else."""
    pair = established()
    hops = pair.a._next_hops[pair.a._session or 0]
    pair.a.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    pair.settle()
    pair.carried["a"].clear()
    pair.a.set_next_hops({"ipv4": hops["ipv4"], "ipv6": None}, 1)
    pair.settle()
    assert [n for u in pair.updates_from("a") for n in u.withdrawn] == [net("2001:db8:1::7/128")]
    assert (pair.a.rib.desired, pair.a.rib.advertised) == (2, 1)
    pair.carried["a"].clear()
    pair.a.set_next_hops({"ipv4": hops["ipv4"], "ipv6": ipaddress.ip_address("2001:db8::77")}, 2)
    pair.settle()
    (route,) = [u for u in pair.updates_from("a") if u.announced]
    assert str(route.next_hop) == "2001:db8::77"


def test_the_table_refuses_what_cannot_happen() -> None:
    with pytest.raises(IllegalEvent):
        step(State.IDLE, Event.KEEPALIVE_RECEIVED)
    assert all(isinstance(target, State) for target in TABLE.values())
    for state in State:
        assert step(state, Event.STOP) is State.IDLE


def test_a_notification_is_never_longer_than_the_rfc_allows() -> None:
    raw = Notification.shutdown("ü" * 300).encode()
    again = Notification.decode(raw[19:])
    assert len(again.text.encode()) <= 255
    assert set(again.text) == {"ü"}
