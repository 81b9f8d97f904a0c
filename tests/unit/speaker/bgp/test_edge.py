"""The edge of BGP on loopback: a defect that one peer's octets meet costs that connection, and nothing else."""

from __future__ import annotations

import ipaddress
import random
import socket
import time

import pytest

from metallb_speaker.announcer.bgp.connection import Connection
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.bgp.wire.framing import KEEPALIVE
from metallb_speaker.announcer.edge import tcp
from metallb_speaker.announcer.edge.bgp import BgpEdge
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

    def broken(self: Connection, data: bytes | None, now: float) -> None:
        if data == b"\xff":
            raise ZeroDivisionError("defect")
        real(self, data, now)

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
