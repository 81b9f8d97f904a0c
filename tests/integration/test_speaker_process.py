"""The announcer as a process, with real frames: it answers, outlives its other half, resumes, hands over."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from metallb_speaker import stream
from tests.integration.layer2_lab import LIMIT, Host, Segment, inside, until
from tests.integration.speaker_lab import Announcer, group, member

pytestmark = pytest.mark.root

ADDRESS, ADDRESS6 = "10.9.0.200", "fd09::200"


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment("spk") as made:
        yield made


def answers(client: Host, address: str, wait: float = 9.0) -> str:
    """The MAC address that the client's own neighbour discovery finds, "" when nobody answers."""
    client.ip("neigh", "flush", "dev", "eth0")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(client.namespace), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))
        sock.send(b"x")

    def found() -> str:
        words = client.ip("neigh", "show", address, "dev", "eth0").split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    until(lambda: bool(found()), wait)
    return found()


def silent(client: Host, address: str) -> bool:
    """Whether nobody answers: two questions' time."""
    return answers(client, address, 1.5) == ""


def mac(host: Host) -> str:
    return host.mac.hex(":")


def test_from_the_first_item_to_the_last_signal(segment: Segment) -> None:
    node, client = segment.host("n1"), segment.host("client")
    with Announcer(node) as announcer:
        cluster = announcer.connect()
        assert not announcer.ready()
        assert "the cluster half" in announcer.status()["ready"][0]
        cluster.tell(member(node, "n1"), group(ADDRESS, ADDRESS6))
        cluster.state()
        assert until(announcer.ready)
        assert answers(client, ADDRESS) == mac(node)
        assert answers(client, ADDRESS6) == mac(node)
        (report,) = cluster.heard(stream.Announced)
        assert report == stream.Announced(f"ns/{ADDRESS}", "layer2", (ADDRESS, ADDRESS6))
        for ip in (ADDRESS, ADDRESS6):
            series = f'service="ns/{ADDRESS}",protocol="layer2",node="n1",ip="{ip}"'
            assert announcer.metric(f"metallb_speaker_announced{{{series}}}") == 1
            assert (announcer.metric(f'metallb_layer2_responses_sent{{ip="{ip}"}}') or 0) >= 1
            assert (announcer.metric(f'metallb_layer2_gratuitous_sent{{ip="{ip}"}}') or 0) >= 1
        assert announcer.metric("metallb_k8s_client_config_loaded_bool") == 1
        # The Service goes: no answer, no series, and the log says why.
        cluster.tell(drop=[("Layer2Group", ADDRESS)], why={f"ns/{ADDRESS}": "serviceDeleted"})
        assert cluster.heard(stream.Withdrawn)[0].reason == "serviceDeleted"
        assert silent(client, ADDRESS)
        assert "metallb_speaker_announced{" not in announcer.get("/metrics")
        assert f'ip="{ADDRESS}"' not in announcer.get("/metrics")
        assert announcer.logged(event="serviceWithdrawn", reason="serviceDeleted")
        # With nothing to do it sleeps: some turns a second for timers, not thousands.
        turns, started = announcer.status()["process"]["turns"], time.monotonic()
        time.sleep(1.0)
        assert announcer.status()["process"]["turns"] - turns < 100 * (time.monotonic() - started)
        started = time.monotonic()
        assert announcer.stop() == 0
        assert time.monotonic() - started < 8


def test_without_its_cluster_half_it_goes_on(segment: Segment) -> None:
    node, client = segment.host("n1"), segment.host("client")
    with Announcer(node) as announcer:
        cluster = announcer.connect()
        cluster.tell(member(node, "n1"), group(ADDRESS))
        cluster.state()
        assert until(announcer.ready)
        cluster.close()
        assert until(lambda: bool(announcer.logged(op="link", level="warn")))
        assert announcer.metric("metallb_speaker_cluster_up") == 1  # it was heard just now
        assert answers(client, ADDRESS) == mac(node)
        # One that talks nonsense changes nothing either.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wrong:
            wrong.connect(str(announcer.socket))
            wrong.sendall(b"\x00\x00\x00\x02{}GET / HTTP/1.1\r\n\r\n")
            wrong.settimeout(LIMIT)
            while wrong.recv(65536):
                pass
        # A new one brings a new snapshot: what it does not name goes, what it names was never interrupted.
        again = announcer.connect()
        again.tell(member(node, "n1"), group(ADDRESS), group(ADDRESS6))
        assert until(lambda: answers(client, ADDRESS6) == mac(node))
        assert len(announcer.logged(event="serviceAnnounced", service=f"ns/{ADDRESS}")) == 1


def test_a_restart_resumes_from_what_was_kept(segment: Segment) -> None:
    node, client = segment.host("n1"), segment.host("client")
    with Announcer(node) as announcer:
        cluster = announcer.connect()
        cluster.tell(member(node, "n1"), group(ADDRESS))
        state = announcer.directory / "desired.state"
        assert until(state.exists)
        assert state.stat().st_mode & 0o777 == 0o600
        os.kill(announcer.process.pid, signal.SIGKILL)
        announcer.process.wait(LIMIT)
        cluster.close()
        assert silent(client, ADDRESS)
        announcer.start()
        assert until(lambda: answers(client, ADDRESS) == mac(node))
        assert not announcer.ready()  # it says that its other half is missing
        # A file that is cut short is as none.
        os.kill(announcer.process.pid, signal.SIGKILL)
        announcer.process.wait(LIMIT)
        state.write_bytes(state.read_bytes()[:-9])
        announcer.start()
        assert until(lambda: bool(announcer.logged(op="state", msg="what was kept is not whole")))
        assert silent(client, ADDRESS)


KEY = "c2VjcmV0c2VjcmV0c2Vj"


def test_two_speakers_hand_over(segment: Segment) -> None:
    one, two, client = segment.host("n1"), segment.host("n2"), segment.host("client")
    everything = [member(one, "n1"), member(two, "n2"), group(ADDRESS, candidates=("n1", "n2"))]
    with Announcer(one, "n1", key=KEY) as first, Announcer(two, "n2", key=KEY) as second:
        clusters = [a.connect() for a in (first, second)]
        for cluster in clusters:
            cluster.tell(*everything)
            cluster.state()
        assert until(lambda: first.ready() and second.ready())
        owner = answers(client, ADDRESS)
        assert owner in (mac(one), mac(two))
        leaving, staying = (first, second) if owner == mac(one) else (second, first)
        assert until(lambda: leaving.metric('metallb_speaker_members{standing="settled"}') == 2)
        assert leaving.stop() == 0
        assert leaving.logged(msg="handed over", untaken=[])
        assert answers(client, ADDRESS) == mac(staying.host)
        assert staying.logged(event="serviceAnnounced")


def test_a_second_signal_ends_at_once(segment: Segment) -> None:
    one = segment.host("n1")
    ghost = segment.host("n2")  # a candidate that never answers: the hand-over would wait for it
    with Announcer(one, "n1", key=KEY) as announcer:
        cluster = announcer.connect()
        cluster.tell(member(one, "n1"), member(ghost, "n2"), group(ADDRESS, candidates=("n1", "n2")))
        cluster.state()
        assert until(announcer.ready)
        os.kill(announcer.process.pid, signal.SIGSTOP)
        announcer.send(signal.SIGTERM)
        announcer.send(signal.SIGINT)
        os.kill(announcer.process.pid, signal.SIGCONT)
        assert announcer.process.wait(LIMIT) in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_mistakes_are_said(segment: Segment, tmp_path: object) -> None:
    node = segment.host("n1")
    with Announcer(node, "") as announcer:
        assert announcer.process.wait(LIMIT) == 2
        assert "METALLB_NODE_NAME" in announcer.log.read_text()
    with Announcer(node, "n1", "--ml-bindprot=1") as announcer:
        assert announcer.process.wait(LIMIT) == 2
        assert "did you mean --ml-bindport?" in announcer.log.read_text()
    # A port that is taken keeps nobody from announcing.
    with inside(node.namespace), socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("0.0.0.0", 7472))
        taken.listen()
        with Announcer(node) as announcer:
            cluster = announcer.connect()
            cluster.tell(member(node, "n1"), group(ADDRESS))
            assert cluster.heard(stream.Announced)
            assert announcer.logged(op="http", level="error")
            taken.close()
            cluster.state()
            assert until(announcer.ready)
