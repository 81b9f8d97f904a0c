"""BFD's edge: which packet is which session's, what is refused for the way that it came, what is said of errors."""

from __future__ import annotations

import ipaddress
import random
import socket
from dataclasses import replace

import pytest

from metallb_speaker.announcer.bfd.wire import CONTROL_PORT, MULTIHOP_PORT, Packet, State
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.edge import onlink
from metallb_speaker.announcer.edge.bfd import BfdEdge
from metallb_speaker.desired import BfdTimers, BgpPeer

PEER = BgpPeer("near", 64512, 64513, "192.0.2.2", 179, "", 90, 30, 0, "", bfd_profile="fast")
FAST = BfdTimers("fast", 50, 50, 3, 50, False, False, 254)
OWN = "192.0.2.1"


def make(*peers: BgpPeer) -> tuple[BgpSpeaker, BfdEdge]:
    speaker = BgpSpeaker(ipaddress.IPv4Address(OWN), random.Random(1))
    speaker.set_peers(peers, [FAST], 0.0)
    return speaker, BfdEdge(speaker, lambda _fd, _handler: None, lambda _fd: None)


def packet(state: State, *, mine: int = 7, yours: int = 0) -> bytes:
    return Packet(state, 0, 3, mine, yours, 50_000, 50_000, 0).encode()


def state(speaker: BgpSpeaker, key: str) -> State:
    session = speaker.bfd(key)
    assert session is not None
    return session.state


def test_the_port_of_multihop_is_no_way_around_the_ttl_of_one_hop() -> None:
    """RFC 5881 section 5, RFC 5883 section 5."""
    speaker, edge = make(PEER, replace(PEER, key="far", address="198.51.100.9", multihop=True))
    near, far = speaker.bfd("near"), speaker.bfd("far")
    assert near is not None
    assert far is not None
    edge._packet(packet(State.DOWN), "192.0.2.2", OWN, 255, CONTROL_PORT, 0.1)
    edge._packet(packet(State.UP, yours=near.discriminator), "192.0.2.2", OWN, 255, CONTROL_PORT, 0.2)
    assert near.state is State.UP
    for ttl, port, reason in (
        (254, CONTROL_PORT, "ttl is not 255"),
        (254, MULTIHOP_PORT, "another session's port"),
        (255, MULTIHOP_PORT, "another session's port"),
    ):
        edge.dropped.clear()
        edge._packet(packet(State.DOWN, yours=near.discriminator), "192.0.2.2", OWN, ttl, port, 0.3)
        assert dict(edge.dropped) == {reason: 1}
    edge._packet(packet(State.DOWN), "192.0.2.2", OWN, 254, MULTIHOP_PORT, 0.3)
    assert edge.dropped["no such session"] == 1, "nor when chosen by address"
    assert near.state is State.UP
    edge._packet(packet(State.DOWN, yours=far.discriminator), "198.51.100.9", OWN, 255, CONTROL_PORT, 0.3)
    edge._packet(packet(State.DOWN), "198.51.100.9", OWN, 255, CONTROL_PORT, 0.3)
    assert far.state is State.DOWN, "nor the other way round"
    edge._packet(packet(State.DOWN), "198.51.100.9", OWN, 254, MULTIHOP_PORT, 0.3)
    assert state(speaker, "far") is State.INIT
    edge.close()


def test_first_packets_go_to_the_session_of_the_address_that_they_were_sent_to() -> None:
    one, two = replace(PEER, key="one", source="192.0.2.1"), replace(PEER, key="two", source="192.0.2.9", port=1179)
    speaker, edge = make(one, two, replace(PEER, key="any", port=2179))
    edge._packet(packet(State.DOWN, mine=1), "192.0.2.2", "192.0.2.9", 255, CONTROL_PORT, 0.1)
    assert [state(speaker, key) for key in ("one", "two", "any")] == [State.DOWN, State.INIT, State.DOWN]
    edge._packet(packet(State.DOWN, mine=2), "192.0.2.2", "192.0.2.77", 255, CONTROL_PORT, 0.1)
    assert [state(speaker, key) for key in ("one", "two", "any")] == [State.DOWN, State.INIT, State.INIT]
    edge._packet(packet(State.DOWN, mine=3), "192.0.2.2", "192.0.2.1", 255, CONTROL_PORT, 0.1)
    assert state(speaker, "one") is State.INIT
    edge.close()


def test_one_session_takes_what_its_peer_sends_to_any_address() -> None:
    speaker, edge = make(replace(PEER, source="192.0.2.1"))
    edge._packet(packet(State.DOWN), "192.0.2.2", "192.0.2.77", 255, CONTROL_PORT, 0.1)
    assert state(speaker, "near") is State.INIT
    edge.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_says_ttl_and_own_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, edge = make()
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(edge, "_packet", lambda *told: seen.append(told))
    version = ipaddress.ip_address(host).version
    edge._open(version, 0)
    receiver = edge._receivers[version, 0]
    with socket.socket(receiver.family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(
            *((socket.IPPROTO_IP, socket.IP_TTL) if version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)),
            250,
        )
        sender.bind((host, 0))
        sender.sendto(b"x", (host, receiver.getsockname()[1]))
    edge._read(receiver, CONTROL_PORT, 1.0)
    assert seen == [(b"x", host, host, 250, CONTROL_PORT, 1.0)]
    edge.close()


def test_an_error_goes_with_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker, edge = make(replace(PEER, address="127.0.0.5", source="203.0.113.99"))
    monkeypatch.setattr(edge, "_open", lambda version, port: None)
    speaker.on_deadline(0.0)
    edge.follow(0.0)
    assert edge.errors == {"near": "cannot send BFD: [Errno 99] Cannot assign requested address"}
    speaker.set_peers([], [FAST], 1.0)
    for now in range(1, 6):
        speaker.on_deadline(now)
        speaker.follow(now)
        speaker.actions()
        edge.follow(now)
    assert edge.errors == {}
    edge.close()


def test_each_family_has_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no")

    _, edge = make(PEER, replace(PEER, key="six", address="2001:db8::2"))
    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "bind", refuse)
        edge._open(4, 0)
        edge._open(6, 0)
    assert sorted(edge.errors) == ["port 0 (IPv4)", "port 0 (IPv6)"]
    edge._open(6, 0)
    assert list(edge.errors) == ["port 0 (IPv4)"]
    edge.close()


def test_a_kernel_without_a_family_is_an_error_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_v4(family: int, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    speaker, edge = make(replace(PEER, key="six", address="2001:db8::2"))
    speaker.on_deadline(0.0)
    monkeypatch.setattr(socket, "socket", only_v4)
    edge.follow(0.0)
    assert sorted(edge.errors) == ["port 3784 (IPv6)", "six"]
    edge.close()


class Links:
    """What the routes say, as a table."""

    def __init__(self) -> None:
        self.far: set[str] = set()

    def __call__(self, peer: str, own: str) -> bool:
        return peer not in self.far


def test_bfd_with_an_ibgp_peer_is_over_as_many_hops_as_the_route() -> None:
    """As FRR decides it; eBGP peers are one hop away unless they are said not to be."""
    links = Links()
    links.far = {"198.51.100.9", "198.51.100.10"}
    speaker = BgpSpeaker(ipaddress.IPv4Address(OWN), random.Random(1), on_link=links)
    near = replace(PEER, key="near", peer_asn="internal")
    far = replace(near, key="far", address="198.51.100.9", peer_asn=64512)
    external = replace(PEER, key="external", address="198.51.100.10")
    local = replace(external, key="local", peer_asn=65001, local_asn=65001)
    gtsm = replace(far, key="gtsm", port=1179, gtsm=True)
    speaker.set_peers([near, far, external, local, gtsm], [FAST], 0.0)

    def multihop() -> list[str]:
        return [k for k in ("near", "far", "external", "local", "gtsm") if (p := speaker.peer(k)) and p.multihop]

    assert multihop() == ["far", "local"]
    session = speaker.bfd("far")
    assert session is not None
    links.far = {"192.0.2.2"}
    speaker.set_peers([near, far, external, local, gtsm], [FAST], 1.0)
    assert multihop() == ["near"]


def test_routes_that_come_later_are_looked_at_until_bfd_is_up() -> None:
    links = Links()
    speaker = BgpSpeaker(ipaddress.IPv4Address(OWN), random.Random(1), on_link=links)
    speaker.set_peers([replace(PEER, peer_asn="internal")], [FAST], 0.0)
    links.far = {"192.0.2.2"}
    now = 0.0
    while now < 11:
        now = max(now + 0.001, speaker.deadline())
        speaker.on_deadline(now)
        for _, session in speaker.bfd_sessions().items():
            session.pending()
        speaker.actions()
    assert (peer := speaker.peer("near")) is not None
    assert peer.multihop
    session = speaker.bfd("near")
    assert session is not None
    session.receive(Packet(State.DOWN, 0, 3, 9, 0, 50_000, 50_000), now)
    session.receive(Packet(State.UP, 0, 3, 9, session.discriminator, 50_000, 50_000), now)
    assert session.state is State.UP
    links.far = set()
    speaker._look(now)
    assert (peer := speaker.peer("near")) is not None
    assert peer.multihop, "it is proven right"
    assert speaker.bfd("near") is session


def test_on_link_is_what_the_kernel_says() -> None:
    assert onlink.on_link("127.0.0.1", "")
    assert onlink.on_link("::1", "")
    assert onlink.on_link("127.0.0.2", "127.0.0.1")
    assert onlink.on_link("no address", "")
