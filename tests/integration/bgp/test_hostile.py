"""Peers that behave badly, on real sockets: the announcer must stay quick, small and right for its other peers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import EXTERNAL_ASN, ROUTER, Agent, Lab, peer, until
from .test_interop import V4, lab

__all__ = ["lab"]
pytestmark = pytest.mark.root

GOOD = "192.0.2.3"
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Sockets made in here are of that namespace (this thread only)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: str) -> None:
        with open(path) as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as home:
        enter(f"/run/netns/{netns}")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def opening(identifier: int, *, extended: bool = False) -> bytes:
    """With a hold time that is longer than these tests: these peers send no KEEPALIVE by themselves."""
    capabilities = bytes.fromhex("010400010001") + bytes.fromhex("010400020001")
    capabilities += b"\x41\x04" + struct.pack("!I", EXTERNAL_ASN) + (b"\x06\x00" if extended else b"")
    parameter = bytes((2, len(capabilities))) + capabilities
    return message(
        1, struct.pack("!BHH4sB", 4, EXTERNAL_ASN, 90, bytes((192, 0, 2, identifier)), len(parameter)) + parameter
    )


KEEPALIVE = message(4)


class Peer:
    """A router made by hand, which answers the announcer's call on one address."""

    def __init__(self, lab: Lab, address: str, buffer: int = 0) -> None:
        self.number = int(address.rsplit(".", 1)[1])
        with inside(lab.router):
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if buffer:
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.listener.bind((address, 179))
            self.listener.listen(8)
        self.listener.settimeout(30)
        self.taken: list[socket.socket] = []

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(30)
        self.taken.append(connection)
        return connection

    def close(self) -> None:
        for one in [*self.taken, self.listener]:
            one.close()

    def establish(self, **kw: Any) -> socket.socket:
        connection = self.accept()
        connection.sendall(opening(self.number, **kw) + KEEPALIVE)
        return connection


@pytest.fixture
def two(lab: Lab) -> Iterator[tuple[Agent, Peer, Peer]]:
    """The announcer with a bad peer and a good one."""
    from .lab import sh

    sh("ip", "-n", lab.router, "addr", "add", f"{GOOD}/24", "dev", "eth0")
    bad, good = Peer(lab, ROUTER["ipv4"], 4096), Peer(lab, GOOD)
    agent = Agent(lab)
    agent.peers = [peer("ipv4", key="bad"), peer("ipv4", key="good", address=GOOD)]
    agent.routes = [{"prefix": V4}]
    agent.apply()
    try:
        yield agent, bad, good
    finally:
        bad.close()
        good.close()


def status(agent: Agent, key: str) -> dict[str, Any]:
    return next(s for s in agent.tell()["status"] if s["peer"] == key)


def rss(agent: Agent) -> int:
    """KiB."""
    return int(Path(f"/proc/{agent.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])


def cpu(agent: Agent) -> float:
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def received(connection: socket.socket) -> list[tuple[int, bytes]]:
    """All messages until the announcer closes."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            data += part
    out = []
    while len(data) >= 19:
        length, kind = struct.unpack_from("!HB", data, 16)
        out.append((kind, data[19:length]))
        data = data[length:]
    return out


def test_a_flood_starves_nobody(two: tuple[Agent, Peer, Peer]) -> None:
    """Tens of megabytes of UPDATEs and refreshes; the good peer's routes still change at once."""
    agent, bad, good = two
    flood, quiet = bad.establish(), good.establish()
    until("both are up", lambda: {s["state"] for s in agent.tell()["status"]} == {"Established"})
    before, answered, heard = rss(agent), [], b""
    update = message(2, struct.pack("!HH", 0, 0) + b"\x20\x0a\x00\x00\x01" * 800)
    block = update * 16 + message(5, struct.pack("!HBB", 1, 0, 1))
    flood.setblocking(False)
    quiet.setblocking(False)
    start = time.monotonic()
    changed, wanted = 0.0, b""
    rest = memoryview(block)
    while len(answered) < 10 or time.monotonic() - start < 3:
        assert time.monotonic() - start < 60, answered
        try:
            count = flood.send(rest)
            rest = rest[count:] if count < len(rest) else memoryview(block)
        except BlockingIOError:
            time.sleep(0.001)
        with contextlib.suppress(BlockingIOError):
            flood.recv(1 << 20)
        with contextlib.suppress(BlockingIOError):
            heard += quiet.recv(1 << 16)
        if wanted and wanted in heard:
            answered.append(time.monotonic() - changed)
            wanted = b""
        if not wanted and time.monotonic() - changed > 0.3:
            number = 10 + len(answered)
            wanted, heard = bytes((32, 203, 0, 113, number)), b""
            changed = time.monotonic()
            agent.routes = [{"prefix": f"203.0.113.{number}/32"}]
            agent.apply()
    # At once: tens of milliseconds. The bound is for a machine whose other core is busy, too.
    assert sorted(answered)[len(answered) // 2] < 1.0
    assert rss(agent) - before < 8192
    assert status(agent, "bad")["updates"]["received"] > 1000
    assert {s["state"] for s in agent.tell()["status"]} == {"Established"}


def test_a_message_that_never_ends_costs_nothing_and_the_hold_timer_ends_it(two: tuple[Agent, Peer, Peer]) -> None:
    agent, bad, good = two
    agent.peers[0]["hold_time"] = 9
    agent.apply()
    stalled = bad.accept()
    good.establish()
    if stalled.recv(1) == b"":  # the attempt with the former hold time
        stalled = bad.accept()
    stalled.sendall(opening(2) + KEEPALIVE)
    until("both are up", lambda: {s["state"] for s in agent.tell()["status"]} == {"Established"})
    before = cpu(agent)
    stalled.sendall(message(2, b"\0" * 1000)[:500])
    until("the stalled session is ended", lambda: status(agent, "bad")["state"] != "Established", 60, 0.25)
    assert (4, 0) in {(body[0], body[1]) for kind, body in received(stalled) if kind == 3}
    assert cpu(agent) - before < 1.5  # a loop that spins would have used all nine seconds
    assert status(agent, "good")["state"] == "Established"


def test_what_comes_with_the_end_in_one_read_harms_that_session_only(two: tuple[Agent, Peer, Peer]) -> None:
    """A refresh and a Cease, as after a lost segment."""
    agent, bad, good = two
    ending = bad.establish()
    good.establish()
    until("both are up", lambda: {s["state"] for s in agent.tell()["status"]} == {"Established"})
    ending.sendall(message(5, struct.pack("!HBB", 1, 0, 1)) + message(3, bytes((6, 2))))
    until("that session is over", lambda: status(agent, "bad")["state"] != "Established")
    assert agent.process.poll() is None
    bad.establish()
    until("it is up again", lambda: status(agent, "bad")["state"] == "Established")
    assert [h["name"] for h in agent.tell()["history"] if h["peer"] == "good"] == ["sessionUp"]


def test_messages_of_64_kib_are_taken(two: tuple[Agent, Peer, Peer]) -> None:
    agent, bad, good = two
    large = bad.establish(extended=True)
    good.establish()
    until("both are up", lambda: {s["state"] for s in agent.tell()["status"]} == {"Established"})
    for _ in range(50):
        large.sendall(message(2, struct.pack("!HH", 0, 0) + b"\x20\x0a\x00\x00\x01" * 13100))
    until("all are counted", lambda: status(agent, "bad")["updates"]["received"] == 50)
    assert status(agent, "bad")["state"] == "Established"
    large.sendall(b"\xff" * 16 + struct.pack("!HB", 65535, 4))  # a KEEPALIVE of 64 KiB
    until("that one is refused", lambda: status(agent, "bad")["state"] != "Established")
    assert (1, 2) in {(body[0], body[1]) for kind, body in received(large) if kind == 3}


def test_a_peer_that_resets_for_ever_is_called_ever_more_rarely(two: tuple[Agent, Peer, Peer]) -> None:
    agent, bad, good = two
    agent.peers[0]["connect_time"] = 0
    agent.apply()
    good.establish()
    bad.listener.settimeout(0.1)
    calls, start = 0, time.monotonic()
    while time.monotonic() - start < (6 if calls >= 2 else 30):
        with contextlib.suppress(TimeoutError):
            connection, _ = bad.listener.accept()
            calls += 1
            if calls % 2:
                connection.sendall(opening(2) + KEEPALIVE)
                time.sleep(0.05)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    assert 2 <= calls <= 7
    assert status(agent, "good")["state"] == "Established"


def test_a_peer_that_never_reads_costs_bounded_memory(two: tuple[Agent, Peer, Peer]) -> None:
    agent, bad, good = two
    unread, quiet = bad.establish(), good.establish()
    until("both are up", lambda: {s["state"] for s in agent.tell()["status"]} == {"Established"})
    quiet.settimeout(0.01)

    def read() -> None:
        with contextlib.suppress(TimeoutError):
            while quiet.recv(1 << 16):
                pass

    sizes = []
    for turn in range(12):
        # The same 3,000 prefixes again and again with other attributes: each turn is 3,000 UPDATEs' worth.
        agent.routes = [
            {"prefix": f"10.0.{i >> 8}.{i & 255}/32", "communities": [[64512, i], [64512, turn]]} for i in range(3000)
        ]
        agent.apply()
        agent.tell()
        read()
        for connection in (unread, quiet):
            connection.sendall(KEEPALIVE)
        sizes.append(rss(agent))
    assert max(sizes[4:]) - sizes[3] < 4096, f"it grows: {sizes}"
    assert status(agent, "bad")["state"] == "Established"  # until the hold or the send hold timer says otherwise
    assert status(agent, "good")["prefixes"]["advertised"] == 3000


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: router\r\n\r\n", (1, 1)),
        (message(9), (1, 3)),
        (message(1, b"\x03" + opening(2)[20:]), (2, 1)),
        (KEEPALIVE, (5, 1)),
        (opening(2) + KEEPALIVE + opening(2), (5, 3)),
    ],
    ids=["http", "unknown-type", "version-3", "keepalive-first", "second-open"],
)
def test_nonsense_is_answered_with_the_rfcs_code(
    two: tuple[Agent, Peer, Peer], sent: bytes, code: tuple[int, int]
) -> None:
    agent, bad, good = two
    good.establish()
    connection = bad.accept()
    connection.sendall(sent)
    notifications = [tuple(body[:2]) for kind, body in received(connection) if kind == 3]
    assert notifications == [code]
    until("the good one is up", lambda: status(agent, "good")["state"] == "Established")
    assert status(agent, "bad")["last_error"]
