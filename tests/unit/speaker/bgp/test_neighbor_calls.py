"""Who calls whom: restarted peers, second calls, refreshes while leaving."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace

import pytest

from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.neighbor import BACKLOG, Dial, Hangup, Neighbor, SessionDown, SessionUp
from metallb_speaker.announcer.bgp.rib import GRACEFUL_SHUTDOWN, RouteAttributes
from metallb_speaker.announcer.bgp.wire import update
from metallb_speaker.announcer.bgp.wire.capabilities import Capabilities
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE, MessageType, frame
from metallb_speaker.announcer.bgp.wire.messages import Notification, Open, RouteRefresh
from metallb_speaker.announcer.bgp.wire.prefix import parse, prefix_of
from tests.unit.speaker.bgp.sessions import (
    established,
    routes,
)

from .pair import HOPS_A, Pair, settings, settings_b

OPEN_B = settings_b().open().encode()


def drain(neighbor: Neighbor, token: int) -> list[update.Update]:
    """The peer reads everything; the UPDATEs of it."""
    data = bytearray()
    while chunk := neighbor.pending(token):
        data += chunk
        neighbor.sent(token, len(chunk), 0)
    out, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position + 16 : position + 18])
        if data[position + 18] == 2:
            out.append(update.decode(bytes(data[position + 19 : position + length])))
        position += length
    return out


def called(**capabilities: object) -> tuple[Neighbor, int]:
    """A neighbour whose own call has become the session; the peer with other capabilities, if named."""
    neighbor = Neighbor(settings(), random.Random(1))
    neighbor.start(0)
    (dial,) = neighbor.actions()
    assert isinstance(dial, Dial)
    neighbor.dialed(dial.token, HOPS_A, 0)
    theirs = settings_b().open()
    opening = replace(theirs, capabilities=replace(theirs.capabilities, **capabilities))  # type: ignore[arg-type]
    neighbor.receive(dial.token, opening.encode() + KEEPALIVE, 0)
    drain(neighbor, dial.token)
    assert neighbor.state is State.ESTABLISHED
    return neighbor, dial.token


def test_a_peer_that_restarted_may_call_while_its_old_call_still_stands() -> None:
    """RFC 4724 section 5: with graceful restart the new connection takes the old place without a NOTIFICATION."""
    pair = Pair.make(settings(graceful_restart=15), settings_b(graceful_restart=15), b_listens=False, a_listens=True)
    pair.b.start(0)
    pair.settle()
    assert pair.a.state is State.ESTABLISHED
    pair.links.clear()  # b loses power: nobody hears of it
    pair.carried["a"].clear()
    pair.b = Neighbor(settings_b(graceful_restart=15), random.Random(3))
    pair.b.start(1)
    pair.now = 1
    pair.settle()
    assert pair.b.state is State.ESTABLISHED
    assert pair.a.state is State.ESTABLISHED
    assert bytes((3, 6)) not in [bytes(pair.carried["a"][i + 18 : i + 20]) for i in range(len(pair.carried["a"]))]


def test_a_second_call_without_graceful_restart_is_refused_by_its_open() -> None:
    pair = Pair.make(b_listens=False, a_listens=True)
    pair.b.start(0)
    pair.settle()
    old = pair.b
    pair.b = Neighbor(settings_b(), random.Random(3))
    pair.b.start(1)
    pair.settle()
    assert pair.a.state is State.ESTABLISHED
    assert "connection collision" in pair.b.last_error
    assert old.state is State.ESTABLISHED


def test_a_call_without_a_word_gives_way_to_the_next() -> None:
    neighbor = Neighbor(settings(), random.Random(4))
    neighbor.start(0)
    neighbor.actions()
    first = neighbor.accepted(HOPS_A, 0)
    second = neighbor.accepted(HOPS_A, 1)
    assert first is not None
    assert second is not None
    (hangup,) = neighbor.actions()
    assert isinstance(hangup, Hangup)
    assert hangup.token == first
    assert neighbor.state is State.OPEN_SENT


def test_an_attempt_is_given_up_when_the_peer_calls() -> None:
    neighbor, peer = Neighbor(settings(), random.Random(4)), Neighbor(settings_b(), random.Random(5))
    neighbor.start(0)
    (dial,) = neighbor.actions()
    token = neighbor.accepted(HOPS_A, 0)
    peer.start(0)
    (call,) = peer.actions()
    assert token is not None
    peer.dialed(call.token, HOPS_A, 0)
    for _ in range(4):
        for source, st, target, tt in ((neighbor, token, peer, call.token), (peer, call.token, neighbor, token)):
            data = source.pending(st)
            source.sent(st, len(data), 0)
            target.receive(tt, data, 0)
    assert neighbor.state is State.ESTABLISHED
    assert neighbor.actions() == [Hangup(dial.token)]
    assert neighbor.deadline() > 20, "nothing but keepalives"
    neighbor.receive(token, None, 5)
    neighbor.dial_failed(dial.token, "timed out", 5)
    assert 5 < neighbor.deadline() < 7, "it dials again"


@pytest.mark.parametrize("restart", [0, 15])
def test_no_attempt_is_made_beside_a_session_that_the_peer_has_opened(restart: int) -> None:
    """With graceful restart a second connection would count as the peer's restart, and end the first."""
    mine, theirs = settings(graceful_restart=restart), settings_b(graceful_restart=restart)
    pair = Pair.make(mine, theirs, a_listens=True, b_listens=False)
    pair.a.start(0)
    pair.run(10)  # nobody answers: the waits grow
    pair.b_listens = True
    pair.b.start(pair.now)
    pair.settle()
    assert pair.a.state is pair.b.state is State.ESTABLISHED
    pair.events = {"a": [], "b": []}
    pair.run(150)
    assert pair.events == {"a": [], "b": []}
    assert len(pair.links) == 1


@pytest.mark.parametrize(
    "tail",
    [Notification(6, 2).encode(), bytes(19), KEEPALIVE[:-1] + b"\x01", settings_b().open().encode()],
    ids=["NOTIFICATION", "no marker", "bad OPEN", "second OPEN"],
)
@pytest.mark.parametrize("enhanced", [True, False])
def test_a_refresh_and_the_end_in_one_read_end_that_session_only(enhanced: bool, tail: bytes) -> None:
    neighbor, token = called(enhanced_refresh=enhanced)
    neighbor.set_routes(routes("203.0.113.1/32"), 0)
    drain(neighbor, token)
    neighbor.receive(token, RouteRefresh("ipv4").encode() + tail, 1)
    assert neighbor.state is not State.ESTABLISHED
    assert [type(e) for e in neighbor.events()] == [SessionUp, SessionDown]
    (hangup,) = neighbor.actions()
    assert isinstance(hangup, Hangup)
    assert 1 < neighbor.deadline() < 3, "it dials again"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_second_call_leaves_nothing_behind_however_its_messages_come(at_once: bool) -> None:
    """RFC 4271 section 6.8: beside a session that stands the newcomer is closed; by us, whatever the peer does."""
    neighbor, token = called()
    neighbor.events()
    second = neighbor.accepted(HOPS_A, 1)
    assert second is not None
    for data in [OPEN_B + KEEPALIVE] if at_once else [OPEN_B, KEEPALIVE]:
        neighbor.receive(second, data, 1)
    assert neighbor.connection is not None
    assert (neighbor.state, neighbor.events()) == (State.ESTABLISHED, [])
    (hangup,) = neighbor.actions()
    assert isinstance(hangup, Hangup)
    assert hangup.token == second
    assert Notification(6, 7).encode() in hangup.last
    neighbor.receive(token, None, 2)
    assert 2 < neighbor.deadline() < 4, "it dials again"
    assert neighbor.accepted(HOPS_A, 2) is not None


def test_of_two_calls_at_once_one_stays_when_opens_come_with_keepalives() -> None:
    neighbor = Neighbor(settings(), random.Random(1))
    neighbor.start(0)
    (dial,) = neighbor.actions()
    call = neighbor.accepted(HOPS_A, 0)
    assert call is not None
    neighbor.dialed(dial.token, HOPS_A, 0)
    neighbor.receive(call, OPEN_B, 0)
    neighbor.receive(dial.token, OPEN_B + KEEPALIVE, 0)
    (hangup,) = neighbor.actions()
    assert isinstance(hangup, Hangup)
    assert hangup.token == dial.token, "theirs is the higher identifier: the connection that they opened stays"
    neighbor.receive(call, KEEPALIVE, 0)
    assert neighbor.state is State.ESTABLISHED


def test_a_withdrawal_that_a_slow_peer_has_not_got_survives_its_refresh() -> None:
    neighbor, token = called(enhanced_refresh=False)
    gone = parse("203.0.113.1/32")
    many = routes(*(f"10.0.{i >> 8}.{i & 255}/32" for i in range(6000)))
    neighbor.set_routes({**many, gone: RouteAttributes()}, 0)
    drain(neighbor, token)
    step = 0
    while neighbor.connection is not None and neighbor.connection.backlog < BACKLOG:  # it reads nothing
        step += 1
        changed = {p: RouteAttributes(communities=((step, i % 300),)) for i, p in enumerate(many)}
        neighbor.set_routes({**changed, gone: RouteAttributes()}, 1)
    neighbor.rib.remove(gone)
    neighbor.flush(2)
    neighbor.receive(token, RouteRefresh("ipv4").encode(), 3)
    sent = drain(neighbor, token)
    withdrawn = {prefix for message in sent for prefix in message.withdrawn}
    assert ipaddress.ip_network("203.0.113.1/32") in withdrawn


def clogged(neighbor: Neighbor) -> None:
    """The peer reads nothing: no further UPDATEs are made."""
    step = 0
    while neighbor.connection is not None and neighbor.connection.backlog < BACKLOG:
        step += 1
        many = routes(*(f"10.0.{i >> 8}.{i & 255}/32" for i in range(2000)))
        for number, prefix in enumerate(many):
            neighbor.rib.upsert(prefix, RouteAttributes(communities=((step, number % 300),)))
        neighbor.flush(1)


def test_a_route_that_waits_to_be_sent_with_another_next_hop_is_still_withdrawn() -> None:
    neighbor, token = called()
    kept, gone = parse("203.0.113.1/32"), parse("203.0.113.2/32")
    neighbor.set_routes(dict.fromkeys((kept, gone), RouteAttributes()), 0)
    drain(neighbor, token)
    clogged(neighbor)
    neighbor.set_next_hops({**HOPS_A, "ipv4": ipaddress.ip_address("192.0.2.9")}, 2)
    neighbor.rib.remove(gone)
    neighbor.flush(2)
    assert neighbor.rib.advertised == neighbor.rib.desired + 1, "the peer has it until it is told otherwise"
    sent = drain(neighbor, token)
    assert ipaddress.ip_network("203.0.113.2/32") in {n for message in sent for n in message.withdrawn}
    again = [str(message.next_hop) for message in sent if ipaddress.ip_network("203.0.113.1/32") in message.announced]
    assert again == ["192.0.2.9"]


def test_routes_whose_next_hop_changes_and_then_goes_are_withdrawn() -> None:
    neighbor, token = called(extended_next_hop=False)
    neighbor.set_routes(routes("203.0.113.1/32"), 0)
    drain(neighbor, token)
    clogged(neighbor)
    neighbor.set_next_hops({**HOPS_A, "ipv4": ipaddress.ip_address("192.0.2.9")}, 2)
    neighbor.set_next_hops({**HOPS_A, "ipv4": None}, 3)
    sent = drain(neighbor, token)
    assert ipaddress.ip_network("203.0.113.1/32") in {n for message in sent for n in message.withdrawn}
    assert neighbor.rib.advertised == 0


def test_only_the_first_open_says_that_the_speaker_restarted() -> None:
    pair = Pair.make(settings(graceful_restart=15, restarting=True), settings_b(graceful_restart=15))
    pair.a.start(0)
    pair.settle()

    def said() -> bool:
        assert pair.b.connection is not None
        assert pair.b.connection.peer_open is not None
        graceful = pair.b.connection.peer_open.capabilities.graceful_restart
        assert graceful is not None
        return graceful.restarting

    assert said()
    link = pair.links.pop()
    link[0].receive(link[1], None, 0)
    link[2].receive(link[3], None, 0)
    pair.run(2)
    assert pair.a.state is State.ESTABLISHED
    assert not said()


def test_asking_for_routes_without_reading_them_costs_bounded_memory() -> None:
    pair = established()
    many = {prefix_of(ipaddress.ip_network((0x0A000000 + i, 32))): RouteAttributes() for i in range(10_000)}
    pair.a.set_routes(many, 0)
    pair.settle()
    link = pair.links[0]
    for _ in range(200):
        pair.a.receive(link[1], RouteRefresh("ipv4").encode(), 0)
    assert pair.a.connection is not None
    assert pair.a.connection.backlog < 1 << 20
    for answers in (1, 2):  # one at once, one for all that was asked meanwhile, and that is all
        pair.carried["a"].clear()
        pair.run(10)
        if answers == 2:
            assert pair.updates_from("a") == []
            continue
        got = [prefix_of(n) for u in pair.updates_from("a") for n in u.announced]
        assert sorted(got) == sorted([*many, *many])
        data = bytes(pair.carried["a"])
        begin, end = (data.count(bytes((0, 23, 5, 0, 1, mark, 1))) for mark in (1, 2))  # BoRR and EoRR
        assert begin == end == 2


def test_a_flood_of_refreshes_has_one_answer_a_second() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    pair.settle()
    pair.carried["a"].clear()
    flood = (RouteRefresh("ipv4").encode() + RouteRefresh("ipv6").encode()) * 700
    for turn in range(30):
        pair.now = turn / 10
        assert pair.a.receive(pair.links[0][1], flood, pair.now) == 1400
        pair.run(0.05)
    again = [str(n) for u in pair.updates_from("a") for n in u.announced]
    assert (again.count("203.0.113.1/32"), again.count("2001:db8:1::7/128")) == (3, 3)


def test_a_refresh_of_a_family_that_was_not_agreed_is_ignored() -> None:
    """RFC 2918 section 4."""
    neighbor, token = called(families=("ipv4",))
    neighbor.set_routes(routes("203.0.113.1/32"), 0)
    drain(neighbor, token)
    neighbor.receive(token, RouteRefresh("ipv6").encode(), 1)
    assert neighbor.pending(token) == b""
    neighbor.receive(token, RouteRefresh("ipv4").encode(), 1)
    assert neighbor.pending(token) != b""


def test_a_refresh_while_leaving_still_says_that_routes_go() -> None:
    pair = established()
    pair.a.set_routes(routes("203.0.113.1/32"), 0)
    pair.settle()
    pair.a.stop(0)
    pair.settle()
    pair.carried["a"].clear()
    pair.a.receive(pair.links[0][1], RouteRefresh("ipv4").encode(), 0.5)
    pair.settle()
    (last,) = [u for u in pair.updates_from("a") if u.announced]
    assert last.attributes is not None
    assert GRACEFUL_SHUTDOWN in last.attributes.communities


@pytest.mark.parametrize(("extended", "maximum"), [(False, 4096), (True, 65535)])
@pytest.mark.parametrize("size", [5, 4080, 65516])
def test_a_refresh_of_a_wrong_length_is_sent_back_as_far_as_it_fits(size: int, extended: bool, maximum: int) -> None:
    """RFC 7313 section 5: the data are the whole message; RFC 4271 section 4.1: ours is no longer than agreed."""
    neighbor, token = called(extended_message=extended)
    wrong = frame(MessageType.ROUTE_REFRESH, b"\0\1\0\1".ljust(size, b"x"))
    neighbor.receive(token, wrong, 1)
    (last,) = [action.last for action in neighbor.actions() if isinstance(action, Hangup)]
    assert Notification.decode(last[19:]) == Notification(7, 1, wrong[: maximum - 21])
    assert len(last) == min(maximum, len(wrong) + 21)


def answered(neighbor: Neighbor, now: float, opening: bytes) -> int:
    """The neighbour dials when it wants to, and hears that."""
    neighbor.on_deadline(now)
    (dial,) = neighbor.actions()
    assert isinstance(dial, Dial)
    neighbor.dialed(dial.token, HOPS_A, now)
    neighbor.receive(dial.token, opening, now)
    return dial.token


def test_a_peer_without_a_family_in_common_is_told_which_are_missed() -> None:
    neighbor = Neighbor(settings(families=("ipv6",)), random.Random(1))
    neighbor.start(0)
    theirs = settings_b(families=("ipv4",)).open().encode()
    answered(neighbor, 0, theirs + KEEPALIVE)
    assert neighbor.state is not State.ESTABLISHED
    assert neighbor.last_error == "sent NOTIFICATION: open: unsupported capability: the peer does not offer IPv6"
    (last,) = [action.last for action in neighbor.actions() if isinstance(action, Hangup)]
    assert last.endswith(Notification(2, 7, bytes((1, 4, 0, 2, 0, 1))).encode())


def test_a_peer_that_offers_other_families_only_gets_no_ipv4_routes() -> None:
    evpn = Capabilities(other=((1, bytes((0, 25, 0, 70))),), four_octet_as=64513)
    neighbor = Neighbor(settings(), random.Random(1))
    neighbor.start(0)
    answered(neighbor, 0, replace(settings_b().open(), capabilities=evpn).encode() + KEEPALIVE)
    assert neighbor.last_error.endswith("the peer does not offer IPv4 or IPv6")


def test_a_peer_that_refuses_the_capabilities_is_called_without_them() -> None:
    """RFC 5492 section 3; the time after that it is asked with them again."""
    neighbor = Neighbor(settings(my_asn=64512, graceful_restart=15), random.Random(1))
    neighbor.set_routes(routes("203.0.113.1/32", "2001:db8:1::7/128"), 0)
    neighbor.start(0)
    refusal = Notification(2, 4).encode()
    now, said = 0.0, []
    for _ in range(4):
        neighbor.on_deadline(now)
        (dial,) = [action for action in neighbor.actions() if isinstance(action, Dial)]
        neighbor.dialed(dial.token, HOPS_A, now)
        said.append(Open.decode(neighbor.pending(dial.token)[19:]).capabilities != Capabilities())
        neighbor.receive(dial.token, refusal, now)
        now = neighbor.deadline()
    assert said == [True, False, True, False]
    neighbor.actions()
    token = answered(neighbor, now, refusal)
    assert token
    neighbor.actions()
    now = neighbor.deadline()
    old = replace(settings_b().open(), capabilities=Capabilities()).encode()
    token = answered(neighbor, now, old + KEEPALIVE)
    assert neighbor.state is State.ESTABLISHED
    assert neighbor.connection is not None
    assert neighbor.connection.negotiated is not None
    assert neighbor.connection.negotiated.families == ("ipv4",)
    assert not neighbor.connection.negotiated.four_octet
    assert not neighbor.keeps_routes
    data = neighbor.pending(token)
    assert Open.decode(data[19 : int.from_bytes(data[16:18])]).capabilities == Capabilities()
