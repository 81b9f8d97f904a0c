"""The announcer's own edges on loopback: the loop, HTTP in slices, the link, the log, what is kept."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metallb_common.obs import http
from metallb_speaker import stream
from metallb_speaker.announcer.edge.child import Child
from metallb_speaker.announcer.edge.link import LinkEdge
from metallb_speaker.announcer.edge.output import MAX_WAITING, Output
from metallb_speaker.announcer.edge.web import Page, WebEdge
from metallb_speaker.announcer.loop import BUDGET, Loop, Priority
from metallb_speaker.announcer.state import NAME, StateFile
from metallb_speaker.desired import Layer2Group, Member


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def spin(loop: Loop, until: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "not in time"
        loop.turn(0.01)


def pair() -> tuple[socket.socket, socket.socket]:
    one, two = socket.socketpair()
    one.setblocking(False)
    return one, two


# --- the loop ----------------------------------------------------------------------------------------


def test_the_urgent_is_served_first(loop: Loop) -> None:
    order: list[str] = []
    pairs = [pair() for _ in range(3)]
    for (one, two), name, priority in zip(
        pairs, ("web", "bfd", "link"), (Priority.WEB, Priority.BFD, Priority.LINK), strict=True
    ):
        loop.watch(one.fileno(), lambda now, name=name: order.append(name), priority)  # type: ignore[misc]
        two.send(b"x")
    for _ in range(4):  # what can wait may have to, on a busy machine
        loop.turn()
    assert list(dict.fromkeys(order)) == ["bfd", "link", "web"]
    for one, two in pairs:
        loop.unwatch(one.fileno())
        one.close()
        two.close()


def test_one_that_is_unwatched_in_the_same_turn_is_not_called(loop: Loop) -> None:
    (a, a2), (b, b2) = pair(), pair()
    called: list[str] = []

    def first(now: float) -> None:
        called.append("a")
        loop.unwatch(b.fileno())

    loop.watch(a.fileno(), first, Priority.BFD)
    loop.watch(b.fileno(), lambda now: called.append("b"), Priority.WEB)
    for sock in (a2, b2):
        sock.send(b"x")
    loop.turn()
    assert called == ["a"]
    for sock in (a, a2, b, b2):
        sock.close()


def test_timers_sources_and_jobs(loop: Loop) -> None:
    happened: list[str] = []

    class Source:
        due = loop.clock() + 0.02

        def deadline(self) -> float:
            return self.due

        def on_deadline(self, now: float) -> None:
            happened.append("source")
            self.due = now + 60

    def again(now: float) -> None:
        happened.append("timer")
        if happened.count("timer") < 3:
            loop.at(now, again)  # in the next turn, not in this one

    def failing() -> Iterator[None]:
        yield
        raise RuntimeError("lost")

    loop.source(Source())
    loop.at(loop.clock(), again)
    loop.job(iter(range(2)))
    loop.job(failing())
    turns = loop.turns
    spin(loop, lambda: "source" in happened)
    assert happened.count("timer") == 3
    assert loop.turns - turns >= 3
    spin(loop, lambda: not loop.busy)
    assert loop.take_longest() > 0
    assert loop.take_longest() == 0


def test_what_can_wait_does_and_everything_gets_its_turn(loop: Loop) -> None:
    """A slow link, a slow page and a slow job share what a turn has to spare; the urgent is served in every turn."""
    (urgent, u2), (link, l2), (page, p2) = pair(), pair(), pair()
    done: dict[str, list[int]] = {"urgent": [], "link": [], "page": [], "job": [], "step": []}

    def slow(name: str) -> None:
        done[name].append(loop.turns)
        end = time.perf_counter() + 2 * BUDGET
        while time.perf_counter() < end:
            pass

    def step(now: float) -> None:
        slow("step")
        loop.soon(step)

    loop.watch(urgent.fileno(), lambda now: done["urgent"].append(loop.turns), Priority.LAYER2)
    loop.watch(link.fileno(), lambda now: slow("link"), Priority.LINK)
    loop.watch_writable(page.fileno(), lambda now: slow("page"))
    loop.job(slow("job") for _ in range(100))
    loop.soon(step)
    for sock in (u2, l2):
        sock.send(b"x")  # never read: ready in every turn
    for _ in range(40):
        loop.turn()
    assert len(done["urgent"]) == 40
    for name in ("link", "page", "job", "step"):
        assert 8 <= len(done[name]) <= 12, done
    waiting = sorted(turn for name in ("link", "page", "job", "step") for turn in done[name])
    assert len(set(waiting)) == len(waiting)  # one a turn, since each is beyond the budget
    for sock in (urgent, u2, link, l2, page, p2):
        loop.unwatch(sock.fileno())
        sock.close()


def test_short_waits_are_short(loop: Loop) -> None:
    late: list[float] = []
    for _ in range(20):
        due = time.monotonic() + 0.0002
        loop.at(due, lambda now, due=due: late.append(now - due))  # type: ignore[misc]
        turns = len(late)
        while len(late) == turns:
            loop.turn()
    assert min(late) < 0.0006  # epoll alone would round up to a millisecond


def test_it_waits_when_there_is_nothing_to_do(loop: Loop) -> None:
    started = time.monotonic()
    loop.turn(0.05)
    assert time.monotonic() - started >= 0.045


# --- pages ---------------------------------------------------------------------------------------------


def web(loop: Loop, pages: dict[str, Callable[[], Page]]) -> WebEdge:
    made = WebEdge(loop, "127.0.0.1", 0, pages)
    made.open(loop.clock())
    return made


def ask(loop: Loop, port: int, request: bytes) -> bytes:
    got = b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        client.send(request)
        ended = False

        def read() -> bool:
            nonlocal got, ended
            try:
                data = client.recv(1 << 16)
            except BlockingIOError:
                return False
            got += data
            ended = not data
            return ended

        spin(loop, read)
    return got


HOST = b" HTTP/1.1\r\nHost: h\r\n\r\n"


def test_pages_are_made_as_they_are_taken(loop: Loop) -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for n in range(500):
            made.append(loop.turns)
            yield b"%09d\n" % n * 400

    edge = web(loop, {"/big": lambda: (200, "text/plain", pieces()), "/bad": lambda: (200, "text/plain", bad())})

    def bad() -> Iterator[bytes]:
        yield b"begun"
        raise RuntimeError("lost")

    body = ask(loop, edge.ports[0], b"GET /big" + HOST)
    assert body.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length" not in body
    assert body.endswith(b"000000499\n")
    assert len(body) > 500 * 4000
    assert max(made.count(turn) for turn in set(made)) <= 1  # one piece a turn
    assert ask(loop, edge.ports[0], b"HEAD /big" + HOST).endswith(b"\r\n\r\n")
    assert ask(loop, edge.ports[0], b"GET /none" + HOST).startswith(b"HTTP/1.1 404 ")
    assert ask(loop, edge.ports[0], b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    ask(loop, edge.ports[0], b"GET /bad" + HOST)
    edge.close()


def test_idle_connections_end_and_never_crowd_out(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.2)
    edge = web(loop, {"/livez": lambda: (200, "text/plain", iter([b"ok"]))})
    idle = []
    for _ in range(9):
        idle.append(socket.create_connection(("127.0.0.1", edge.ports[0])))
        loop.turn(0.01)
    assert len(edge._connections) == 4
    assert ask(loop, edge.ports[0], b"GET /livez" + HOST).endswith(b"ok")
    spin(loop, lambda: not edge._connections)
    for sock in idle:
        sock.close()
    edge.close()


def test_a_taken_port_is_tried_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metallb_speaker.announcer.edge.web.RETRY", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        edge = WebEdge(loop, "127.0.0.1", taken.getsockname()[1], {})
        edge.open(loop.clock())
        for _ in range(10):
            loop.turn(0.01)
        assert not edge.ports
    spin(loop, lambda: edge.ports)
    edge.close()
    assert capsys.readouterr().out.count("cannot listen") == 1


# --- the link --------------------------------------------------------------------------------------------


def test_a_large_snapshot_takes_a_turn_a_frame(loop: Loop) -> None:
    events: list[tuple[int, stream.Event]] = []
    reader = stream.DesiredReader()
    link = LinkEdge(loop, reader, lambda event, now: events.append((loop.turns, event)))
    one, two = socket.socketpair()
    link.attach(one)
    desired = stream.DesiredWriter()
    desired.change([Layer2Group(str(n), (), ("n1", "n2")) for n in range(200)])
    wire = stream.hello("1") + b"".join(desired.take())
    two.setblocking(False)
    sent = 0

    def feed() -> bool:
        nonlocal sent
        with contextlib.suppress(BlockingIOError):
            sent += two.send(wire[sent : sent + 4096]) if sent < len(wire) else 0
        return any(isinstance(event, stream.Complete) for _, event in events)

    spin(loop, feed)
    turns = [turn for turn, _ in events]
    assert len(set(turns)) == len(turns) > 10
    assert reader.items == desired.items
    # Reports go the other way; one for a connection that is gone is dropped.
    link.report(stream.Warned("Node", "n1", "r", "m"))
    got = b""

    def received() -> list[stream.Upstream]:
        nonlocal got
        with contextlib.suppress(BlockingIOError):
            got += two.recv(4096)
        return [m for m in stream.UpstreamReader().receive(got) if isinstance(m, stream.Warned)]

    spin(loop, received)
    two.close()
    spin(loop, lambda: not link.connected)
    link.report(stream.Warned("Node", "n1", "r", "m"))
    link.close()


def test_a_hung_reader_costs_a_bounded_amount(loop: Loop) -> None:
    link = LinkEdge(loop, stream.DesiredReader(), lambda event, now: None)
    one, two = socket.socketpair()
    link.attach(one)
    for _ in range(30):
        link.report(stream.Warned("Node", "n1", "r", "m" * 100_000))
    assert link.dropped_reports > 0
    link.close()
    two.close()


def test_listening_replaces_what_is_left_of_an_earlier_run(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
            path.unlink(missing_ok=True)
            stale.bind(str(path))
        link = LinkEdge(loop, stream.DesiredReader(), lambda event, now: None)
        link.listen(str(path))
        assert path.stat().st_mode & 0o777 == 0o666
        first = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        first.connect(str(path))
        spin(loop, lambda: link.connected)  # noqa: B023
        second = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        second.connect(str(path))
        first.setblocking(False)
        spin(loop, lambda: closed(first))  # noqa: B023
        assert link.connected
        link.close()
        assert not path.exists()
        first.close()
        second.close()


def closed(sock: socket.socket) -> bool:
    try:
        return not sock.recv(4096)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


# --- the child ---------------------------------------------------------------------------------------------


def test_a_child_that_ends_is_started_again_ever_later(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$METALLB_LINK_FD" "$METALLB_ML_SECRET_KEY" "$@" >> {starts}\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setenv("METALLB_ML_SECRET_KEY", "secret")
    monkeypatch.setattr("metallb_speaker.announcer.edge.child.FIRST_WAIT", 0.05)
    sockets: list[socket.socket] = []
    child = Child(loop, ["--node-name=n1"], sockets.append)
    child._wait = 0.05
    child.start(loop.clock())
    spin(loop, lambda: child.restarts >= 3 and child.pid == 0)
    child.close(loop.clock)
    lines = starts.read_text().splitlines()
    assert len(lines) == 3
    assert "secret" not in lines[0]
    assert lines[0].endswith("-m metallb_speaker --node-name=n1 --mode=cluster")
    assert child._wait == pytest.approx(0.4)
    for sock in sockets:
        sock.close()


def test_a_child_that_does_not_end_is_killed(loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    sockets: list[socket.socket] = []
    child = Child(loop, [], sockets.append)
    child.start(loop.clock())
    pid = child.pid
    assert os.getsid(pid) == pid
    child.close(loop.clock, patience=0.05)
    assert not Path(f"/proc/{pid}").exists()
    sockets[0].close()


def test_a_child_that_cannot_be_started_is_tried_again(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    child = Child(loop, [], lambda sock: pytest.fail("attached"))
    child._wait = 0.01
    child.start(loop.clock())
    spin(loop, lambda: child._wait > 0.05)
    child.close(loop.clock)


# --- the log, and what is kept --------------------------------------------------------------------------------


def test_a_full_pipe_stops_nobody() -> None:
    read, write = os.pipe()
    output = Output(write)
    for n in range(40_000):
        output.write(f"{n:09}\n")
        if n % 100 == 0:
            output.drain()
    assert output.dropped == 0
    for _ in range(MAX_WAITING // 1000):
        output.write("x" * 999 + "\n")
    assert output.dropped > 0
    os.set_blocking(read, False)
    got = bytearray()
    for _ in range(100_000):
        output.drain()
        try:
            got += os.read(read, 1 << 16)
        except BlockingIOError:
            break
    lines = got.split(b"\n")
    assert lines[0] == b"000000000"
    assert lines[39_999] == b"000039999"  # in order and whole
    os.close(read)
    output.write("nobody reads this\n")
    output.drain()
    os.close(write)


def kept(directory: Path) -> StateFile:
    return StateFile(str(directory))


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    desired, reader = stream.DesiredWriter(), stream.DesiredReader()
    desired.change([Member(str(n), ("192.0.2.1",), True) for n in range(100)])
    reader.receive(stream.hello("1") + b"".join(desired.take()))
    steps = list(kept(tmp_path).save(reader))
    assert len(steps) > 5
    again = stream.DesiredReader()
    events = kept(tmp_path).load(again)
    assert isinstance(events[-1], stream.Complete)
    assert again.items == reader.items
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    # A new connection begins anew: its snapshot replaces what was kept.
    again.connected()
    other = stream.DesiredWriter()
    other.change([Member("0", ("192.0.2.1",), True)])
    changes = again.receive(stream.hello("1") + b"".join(other.take()))
    assert sum(len(c.drop) for c in changes if isinstance(c, stream.Change)) == 99


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x00\x00\x00\x02{}", None])
def test_a_damaged_file_is_as_none(tmp_path: Path, damage: bytes | None) -> None:
    desired, reader = stream.DesiredWriter(), stream.DesiredReader()
    desired.change([Member("n1", (), True)])
    reader.receive(stream.hello("1") + b"".join(desired.take()))
    list(kept(tmp_path).save(reader))
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-3] if damage is None else damage)
    fresh = stream.DesiredReader()
    assert kept(tmp_path).load(fresh) == []
    assert fresh.items == {}


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    state = kept(tmp_path / "missing")
    assert list(state.save(stream.DesiredReader())) == []
    assert state.load(stream.DesiredReader()) == []
    assert kept(tmp_path).load(stream.DesiredReader()) == []
