"""The edge of BGP on loopback: a defect that one peer's octets meet costs that connection, and nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import threading
import time

import pytest

from metallb_speaker.announcer.bgp.connection import Connection
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE
from metallb_speaker.announcer.edge import tcp
from metallb_speaker.announcer.edge.bgp import MESSAGES_MAX, BgpEdge
from metallb_speaker.announcer.loop import Loop, Priority
from metallb_speaker.desired import BgpPeer

from .pair import settings_b


class Bench:
    """Two peers on loopback, their sessions up, and the announcer's own loop."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.speaker = BgpSpeaker(ipaddress.IPv4Address("192.0.2.1"), random.Random(1))
        self.edge = BgpEdge(self.speaker, self.loop.at_priority(Priority.BGP), self.loop.unwatch)
        self.listeners = {key: socket.create_server(("127.0.0.1", 0)) for key in ("bad", "good")}
        ports = {key: listener.getsockname()[1] for key, listener in self.listeners.items()}
        peers = [BgpPeer(key, 64512, 64513, "127.0.0.1", port, "", 90, 30, 0, "") for key, port in ports.items()]
        self.speaker.set_peers(peers, [], self.loop.clock())
        self.edge.act(self.loop.clock())
        self.calls = {key: self.answer(key) for key in ports}
        self.turn(20)

    def answer(self, key: str) -> socket.socket:
        self.listeners[key].settimeout(30)
        call, _ = self.listeners[key].accept()
        call.sendall(settings_b(peer_asn=64512).open().encode() + KEEPALIVE)
        return call

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.loop.turn(0.01)
            self.speaker.follow(self.loop.clock())
            self.edge.act(self.loop.clock())

    def state(self, key: str) -> str:
        neighbor = self.speaker.neighbor(key)
        assert neighbor is not None
        return neighbor.state.value

    def close(self) -> None:
        self.edge.close()
        for sock in (*self.calls.values(), *self.listeners.values()):
            sock.close()


def test_a_defect_costs_the_connection_that_meets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench()
    assert (bench.state("bad"), bench.state("good")) == ("Established", "Established")
    real = Connection.receive

    def broken(self: Connection, data: bytes | None, now: float) -> int:
        if data == b"\xff":
            raise ZeroDivisionError("defect")
        return real(self, data, now)

    monkeypatch.setattr(Connection, "receive", broken)
    bench.calls["bad"].sendall(b"\xff")
    bench.turn(20)
    assert (bench.state("bad"), bench.state("good")) == ("Idle", "Established")
    assert capsys.readouterr().out.count("ZeroDivisionError") == 1
    assert bench.calls["bad"].recv(1 << 16), "what was sent before"
    assert bench.calls["bad"].recv(1) == b"", "it is closed"
    bench.close()


@pytest.mark.parametrize("version", [4, 6])
def test_the_last_word_reaches_a_peer_whose_packets_gtsm_refuses(version: int) -> None:
    """Its acknowledgements are refused, too: what comes after the first octets would wait for them for ever."""
    host, family = ("127.0.0.1", socket.AF_INET) if version == 4 else ("::1", socket.AF_INET6)
    with socket.create_server((host, 0), family=family) as listener:
        ours = tcp.dial(ipaddress.ip_address(host), listener.getsockname()[1], source="", password="", gtsm=True)
        theirs, _ = listener.accept()
        theirs.settimeout(30)
        if version == 4:
            theirs.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        else:
            theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        tcp.demand_hops(ours, version=version)
        ours.send(b"OPEN")
        assert theirs.recv(4) == b"OPEN"
        time.sleep(1.0)  # it is sent again and again, and the window is closed to all but it
        ours.send(b"NOTIFICATION")
        tcp.demand_no_hops(ours)
        ours.close()
        received = b""
        while data := theirs.recv(64):
            received += data
        assert received == b"NOTIFICATION"
        theirs.close()


def test_what_floods_share_a_turn() -> None:
    """Small messages cost more than their octets; and who was not reached in one turn comes first in the next."""
    bench = Bench()
    flood = KEEPALIVE * 40_000
    for call in bench.calls.values():
        call.setblocking(False)
        call.send(flood)
    heard = dict.fromkeys(bench.calls, 0)
    real = Connection.receive

    def counted(self: Connection, data: bytes | None, now: float) -> int:
        count = real(self, data, now)
        heard[self.settings.name] += count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "receive", counted)
        for turn in range(1, 9):
            bench.turn(1)
            assert sum(heard.values()) <= turn * 2 * MESSAGES_MAX, "a read is no more than its buffer"
    assert min(heard.values()) >= 2 * MESSAGES_MAX, heard
    bench.close()


def test_the_end_of_a_connection_does_not_wait_for_the_end_of_a_flood() -> None:
    bench = Bench()
    bench.calls["bad"].setblocking(False)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                bench.calls["bad"].send(b"\xff" * (1 << 22))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        began = time.monotonic()
        while bench.state("bad") == "Established":
            bench.turn(1)
        assert time.monotonic() - began < 2
    finally:
        stop.set()
        thread.join()
    bench.close()


class Listener:
    """An edge that listens on a port of its own, on loopback."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        loop = Loop()
        self.speaker = BgpSpeaker(ipaddress.IPv4Address("192.0.2.1"), random.Random(1))
        self.edge = BgpEdge(self.speaker, loop.at_priority(Priority.BGP), loop.unwatch, listen_port=self.port)

    def answers(self, address: str, key: str = "") -> bool:
        """Whether a call from there gets as far as a connection."""
        with socket.socket() as call:
            if key:
                tcp.set_md5(call, ipaddress.ip_address("127.0.0.1"), key)
            call.bind((address, 0))
            call.settimeout(0.2)
            return call.connect_ex(("127.0.0.1", self.port)) == 0


def test_a_key_that_cannot_be_set_leaves_no_other_peer_open() -> None:
    bench = Listener()
    peers = {f"127.0.0.{i}": "x" * 100 if i == 5 else f"key {i}" for i in range(2, 9)}
    bench.edge.listen_for(peers)
    assert bench.edge.listen_errors == {}
    assert list(bench.edge.key_errors) == ["127.0.0.5"]
    others = peers.keys() - {"127.0.0.5"}
    assert [a for a in sorted(others) if bench.answers(a)] == [], "unsigned"
    assert [a for a in sorted(others) if not bench.answers(a, peers[a])] == [], "signed"
    bench.edge.close()


def test_a_peer_whose_key_cannot_be_set_is_refused_until_it_can() -> None:
    bench = Listener()
    peer = BgpPeer("bad", 64512, 64513, "127.0.0.5", 1, "", 90, 30, 0, "", listen=True)
    bench.speaker.set_peers([peer], [], 0.0)
    bench.edge.listen_for({"127.0.0.5": "x" * 100})

    def taken() -> bool:
        with socket.socket() as call:
            call.bind(("127.0.0.5", 0))
            call.settimeout(0.3)
            call.connect(("127.0.0.1", bench.port))
            bench.edge.on_ready(0.0)
            try:
                return call.recv(64) != b""  # our OPEN
            except OSError:
                return False

    assert not taken()
    bench.edge.listen_for({"127.0.0.5": ""})
    assert bench.edge.key_errors == {}
    assert taken()
    bench.edge.close()


def test_keys_that_are_gone_can_be_taken_away_again() -> None:
    bench = Listener()
    bench.edge.listen_for({"127.0.0.2": "two", "127.0.0.3": "three"})
    bench.edge.listen_for({"127.0.0.9": "x" * 100})
    for _ in range(2):
        bench.edge.listen_for({"127.0.0.9": "nine"})
        assert (bench.edge.key_errors, bench.edge.listen_errors) == ({}, {})
    assert not bench.answers("127.0.0.9")
    assert bench.answers("127.0.0.2")
    for version in (4, 6):
        sock = tcp.bind(version, 0)
        address = ipaddress.ip_address("127.0.0.9" if version == 4 else "::1")
        tcp.set_md5(sock, address, "")
        with pytest.raises(ValueError, match="80 octets"):
            tcp.set_md5(sock, address, "x" * 81)
        sock.close()
    bench.edge.close()
