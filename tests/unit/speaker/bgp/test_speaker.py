"""The neighbours that `Desired` names: only what changed is touched, BFD is bound, leaving is ordered."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace

import pytest

from metallb_common.config import pools
from metallb_speaker.announcer.bfd.session import Session
from metallb_speaker.announcer.bfd.wire import Diagnostic, Packet, State
from metallb_speaker.announcer.bgp.merge import MAX_COMMUNITIES, merge
from metallb_speaker.announcer.bgp.neighbor import Dial, Hangup
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.bgp.wire import update
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE
from metallb_speaker.desired import AnnouncedAddress, BfdTimers, BgpPeer, BgpRoute
from tests.unit.speaker.bgp.pair import HOPS_A, settings_b

PEER = BgpPeer(
    key="tor",
    my_asn=64512,
    peer_asn=64513,
    address="192.0.2.2",
    port=179,
    source="",
    hold_time=90,
    keepalive_time=30,
    connect_time=0,
    router_id="",
    bfd_profile="fast",
)
FAST = BfdTimers("fast", 50, 50, 3, 50, False, False, 254)


def route(prefix: str, *, peers: tuple[str, ...] = (), localpref: int = 0, communities: object = ()) -> BgpRoute:
    address = AnnouncedAddress(prefix.split("/")[0], ("default/web",))
    return BgpRoute(f"{prefix}{peers}{localpref}", prefix, localpref, communities, peers, (address,))  # type: ignore[arg-type]


def want(
    speaker: BgpSpeaker, peers: list[BgpPeer], routes: list[BgpRoute], timers: list[BfdTimers], now: float
) -> None:
    speaker.set_peers(peers, timers, now)
    for wanted in routes:
        speaker.put_route(wanted)
    speaker.flush(now)


def make() -> BgpSpeaker:
    return BgpSpeaker(ipaddress.IPv4Address("192.0.2.1"), random.Random(1))


def test_a_named_peer_is_dialed_and_a_removed_one_is_left() -> None:
    speaker = make()
    want(speaker, [PEER], [route("203.0.113.1/32")], [FAST], 0)
    ((key, action),) = speaker.actions()
    assert key == "tor"
    assert isinstance(action, Dial)
    want(speaker, [], [], [], 1)
    ((key, action),) = speaker.actions()
    assert isinstance(action, Hangup)
    speaker.follow(1)
    assert speaker.stopped
    assert speaker.bfd("tor") is None


def test_equal_wishes_touch_nothing() -> None:
    speaker = make()
    want(speaker, [PEER], [route("203.0.113.1/32")], [FAST], 0)
    speaker.actions()
    discriminator = speaker.bfd("tor").discriminator  # type: ignore[union-attr]
    want(speaker, [PEER], [route("203.0.113.1/32")], [FAST], 1)
    assert speaker.actions() == []
    assert speaker.bfd("tor").discriminator == discriminator  # type: ignore[union-attr]


def test_a_new_password_resets_and_new_bfd_timers_do_not() -> None:
    speaker = make()
    want(speaker, [PEER], [], [FAST], 0)
    speaker.actions()
    want(speaker, [PEER], [], [replace(FAST, detect_multiplier=5)], 1)
    assert speaker.actions() == []
    want(speaker, [replace(PEER, bfd_profile="")], [], [], 2)
    assert speaker.actions() == []
    want(speaker, [replace(PEER, bfd_profile="", password="x")], [], [], 3)
    assert [type(a) for _, a in speaker.actions()] == [Hangup]
    speaker.on_deadline(3)
    assert [type(a) for _, a in speaker.actions()] == [Dial]


def test_routes_go_to_the_peers_that_they_name() -> None:
    speaker = make()
    routes = [route("203.0.113.1/32"), route("203.0.113.2/32", peers=("tor",)), route("203.0.113.3/32", peers=("x",))]
    want(speaker, [PEER, replace(PEER, key="x", address="192.0.2.3")], routes, [], 0)
    for key, count in (("tor", 2), ("x", 2)):
        neighbor = speaker.neighbor(key)
        assert neighbor is not None
        assert neighbor.rib.desired == count
    speaker.drop_route(routes[0].key)
    speaker.flush(1)
    assert speaker.neighbor("tor").rib.desired == 1  # type: ignore[union-attr]


def test_a_new_name_changes_what_a_peer_gets_and_nothing_else() -> None:
    speaker = make()
    routes = [route("203.0.113.1/32"), route("203.0.113.2/32", peers=("leaf",)), route("203.0.113.3/32", peers=("x",))]
    want(speaker, [PEER], routes, [], 0)
    speaker.actions()
    neighbor = speaker.neighbor("tor")
    assert neighbor is not None
    assert neighbor.rib.desired == 1
    speaker.set_peers([replace(PEER, name="leaf")], [], 1)  # and nothing else has changed
    speaker.flush(1)
    assert speaker.actions() == []
    assert speaker.neighbor("tor") is neighbor
    assert neighbor.rib.desired == 2
    assert [entry["peer"] for entry in speaker.status()] == ["leaf"]


def test_a_later_peer_gets_the_routes_that_are_there() -> None:
    speaker = make()
    want(speaker, [], [route("203.0.113.1/32")], [], 0)
    want(speaker, [PEER], [], [], 1)
    assert speaker.neighbor("tor").rib.desired == 1  # type: ignore[union-attr]


def test_equal_prefixes_are_merged_the_same_way_whatever_the_order() -> None:
    one = route("203.0.113.1/32", localpref=100, communities=((64512, 1), (1, 2, 3)))
    two = route("203.0.113.1/32", localpref=200, communities=((64512, 2),))
    merged = merge("tor", [one, two])
    assert merged == merge("tor", [two, one])
    assert merged is not None
    assert merged.local_pref == 200
    assert merged.communities == ((64512, 1), (64512, 2))
    assert merged.large_communities == ((1, 2, 3),)


@pytest.mark.parametrize("asn", [64513, "internal"])
@pytest.mark.parametrize("prefix", ["203.0.113.0/24", "2001:db8::/64"])
def test_merged_communities_fit_into_a_message(asn: int | str, prefix: str) -> None:
    """Whatever the pools that share an aggregate ask for; and no-export is not what is left out."""
    speaker = make()
    mine = 64513 if asn == "internal" else 4200000000
    peer = replace(PEER, peer_asn=asn, my_asn=mine, bfd_profile="")
    routes = [route(prefix, localpref=n, communities=[(70000 + n, 1, i) for i in range(100)]) for n in range(60)]
    routes.append(route(prefix, localpref=99, communities=[(1, 2), (65535, 65281)]))
    want(speaker, [peer], routes, [], 0)
    ((key, dial),) = speaker.actions()
    neighbor = speaker.neighbor(key)
    assert neighbor is not None
    neighbor.dialed(dial.token, HOPS_A, 0)
    theirs = settings_b().open()
    short = replace(theirs, capabilities=replace(theirs.capabilities, extended_message=False, four_octet_as=0))
    neighbor.receive(dial.token, short.encode() + KEEPALIVE, 0)
    neighbor.stop(1)  # GRACEFUL_SHUTDOWN comes on top
    data, lengths, last = neighbor.pending(dial.token), [], b""
    while data:
        length = int.from_bytes(data[16:18])
        lengths.append(length)
        last = data[19:length] if data[18] == 2 and length > 1000 else last
        data = data[length:]
    assert 3000 < max(lengths) <= 4096
    told = update.decode(last, four_octet=False).attributes
    assert told is not None
    assert {(65535, 0), (1, 2), (65535, 65281)} == set(told.communities)
    assert len(told.large_communities) == MAX_COMMUNITIES - 2
    assert speaker.problems() == [
        f"route {prefix}: 5702 of its communities are left out, only 300 fit into a message: let fewer advertisements "
        "have this prefix"
    ]
    for wanted in routes[2:]:
        speaker.drop_route(wanted.key)
    speaker.flush(2)
    assert speaker.problems() == []


def test_the_bound_on_communities_is_the_configurations() -> None:
    assert pools.MAX_COMMUNITIES == MAX_COMMUNITIES


def test_one_of_two_routes_of_a_prefix_leaves_the_other() -> None:
    speaker = make()
    one, two = route("203.0.113.1/32", localpref=100), route("203.0.113.1/32", localpref=200)
    want(speaker, [PEER], [one, two], [], 0)
    speaker.drop_route(two.key)
    speaker.flush(0)
    assert speaker.neighbor("tor").rib.desired == 1  # type: ignore[union-attr]
    speaker.drop_route(one.key)
    speaker.flush(0)
    assert speaker.neighbor("tor").rib.desired == 0  # type: ignore[union-attr]


def test_bfd_down_resets_bgp_but_an_operator_taking_it_down_does_not() -> None:
    speaker = make()
    want(speaker, [PEER], [], [FAST], 0)
    ((_, dial),) = speaker.actions()
    session, neighbor = speaker.bfd("tor"), speaker.neighbor("tor")
    assert session is not None
    assert neighbor is not None
    neighbor.dialed(dial.token, {"ipv4": ipaddress.ip_address("192.0.2.1"), "ipv6": None}, 0)
    up = Packet(State.INIT, 0, 3, 9, session.discriminator, 50_000, 50_000)
    session.receive(up, 0)
    assert [e.name for e in speaker.follow(0)] == ["bfdUp"]
    session.receive(replace(up, state=State.ADMIN_DOWN), 1)
    assert [e.name for e in speaker.follow(1)] == ["bfdDown"]
    assert speaker.actions() == []
    session.receive(replace(up, state=State.DOWN), 2)
    session.receive(replace(up, state=State.INIT), 2)
    speaker.follow(2)
    session.on_deadline(10)
    events = speaker.follow(10)
    assert ("bfdDown", "detection expired") in [(e.name, e.reason) for e in events]
    assert [type(a) for _, a in speaker.actions()] == [Hangup]


def test_status_tells_state_and_last_error() -> None:
    speaker = make()
    want(speaker, [PEER], [route("203.0.113.1/32")], [FAST], 0)
    ((_, dial),) = speaker.actions()
    speaker.neighbor("tor").dial_failed(dial.token, "connection refused", 0)  # type: ignore[union-attr]
    assert [(e.name, e.reason) for e in speaker.follow(0)] == [("sessionFailed", "cannot connect: connection refused")]
    (entry,) = speaker.status()
    assert entry["state"] == "Active"
    assert entry["last_error"] == "cannot connect: connection refused"
    assert entry["prefixes"] == {"desired": 1, "advertised": 0}


def establish(speaker: BgpSpeaker) -> None:
    """Every peer that is dialed answers."""
    for key, action in speaker.actions():
        neighbor = speaker.neighbor(key)
        assert neighbor is not None
        if isinstance(action, Dial):
            neighbor.dialed(action.token, HOPS_A, 0)
            neighbor.receive(action.token, settings_b(peer_asn=64512).open().encode() + KEEPALIVE, 0)
            assert neighbor.connection is not None
    speaker.follow(0)


def up_bfd(speaker: BgpSpeaker, key: str, now: float) -> Session:
    session = speaker.bfd(key)
    assert session is not None
    for state, yours in ((State.DOWN, 0), (State.INIT, session.discriminator), (State.UP, session.discriminator)):
        session.receive(Packet(state, Diagnostic.NONE, 3, 7, yours, 50_000, 50_000), now)
    assert session.state is State.UP
    speaker.follow(now)
    session.pending()
    return session


def test_peers_on_two_ports_of_one_router_go_by_one_bfd_session() -> None:
    """The router has one for the two addresses (RFC 5881 section 2): a second one of ours would fight the first."""
    speaker = make()
    second = replace(PEER, key="tor2", port=1790)
    want(speaker, [PEER, second], [], [FAST], 0)
    assert list(speaker.bfd_sessions()) == ["tor"]
    session = up_bfd(speaker, "tor", 1)
    assert [s["bfd"] for s in speaker.status()] == ["UP", "UP"]
    establish(speaker)
    speaker.on_deadline(2)  # nothing was heard for a detection time
    names = [(e.peer, e.name) for e in speaker.follow(2) if e.name in ("bfdDown", "sessionDown")]
    assert names == [("tor", "bfdDown"), ("tor", "sessionDown"), ("tor2", "sessionDown")]
    up_bfd(speaker, "tor", 3)
    want(speaker, [second], [], [FAST], 4)  # the holder goes
    speaker.follow(4)
    speaker.on_deadline(6)
    speaker.follow(6)
    assert session.state is not State.ADMIN_DOWN
    assert speaker.bfd_sessions() == {"tor2": session}, "the other has it from now on"
    assert speaker.ending_bfd() == []
    assert speaker.bfd_by_discriminator(session.discriminator) == "tor2"
    want(speaker, [], [], [FAST], 7)
    speaker.follow(7)
    speaker.on_deadline(9)
    speaker.follow(9)
    assert speaker.bfd_sessions() == {}
    assert [s.state for _, s in speaker.ending_bfd()] == [State.ADMIN_DOWN]


def test_another_port_of_the_peer_keeps_its_bfd_session() -> None:
    speaker = make()
    want(speaker, [PEER], [], [FAST], 0)
    session = up_bfd(speaker, "tor", 1)
    establish(speaker)
    moved = replace(PEER, key="tor new port", port=1790)
    want(speaker, [moved], [], [FAST], 2)
    now = 2.0
    while now < 5:
        session.receive(Packet(State.UP, Diagnostic.NONE, 3, 7, session.discriminator, 50_000, 50_000), now)
        speaker.on_deadline(now)
        assert "bfdDown" not in [e.name for e in speaker.follow(now)]
        now += 0.05
    assert speaker.bfd_sessions() == {"tor new port": session}
    assert session.state is State.UP
