"""The embedded cluster's own logic, as far as it needs no root: names, addresses, records, reports, archives."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from tests.cluster import probe
from tests.cluster.archive import Entry, Settings, write
from tests.cluster.instance import ClusterError, Instance, boot_id, until
from tests.cluster.observe import _PROBE as PROBE
from tests.cluster.observe import Probe, Report, page_value
from tests.cluster.plan import CLIENT, Family, Plan, url_host
from tests.cluster.processes import _TRAMPOLINE, Record, running, start_time


def test_the_plan_numbers_hosts_alike_in_both_families() -> None:
    plan = Plan(2)
    assert [n.name for n in plan.node_hosts] == ["node1", "node2"]
    assert plan.addresses(plan.node_hosts[1]) == ["172.18.0.12", "fd00:172:18::12"]
    assert plan.addresses(CLIENT) == ["172.18.0.5", "fd00:172:18::5"]
    assert plan.node_hosts[1].pods_v6 == "fd00:10:244:2::/64"
    assert len({h.mac for h in plan.hosts}) == len(plan.hosts)


def test_an_ipv6_only_plan_has_no_ipv4_anywhere() -> None:
    plan = Plan(1, Family.IPV6)
    values = [*plan.pod_ranges, *plan.service_ranges, *plan.api_service, *plan.dns_service]
    values += [a for h in plan.hosts for a in plan.addresses(h)]
    assert values
    assert not [v for v in values if "." in v]
    assert plan.api_url == "https://[fd00:172:18::2]:6443"


@pytest.mark.parametrize("nodes", [0, 10])
def test_a_plan_refuses_sizes_that_it_has_no_addresses_for(nodes: int) -> None:
    with pytest.raises(ValueError, match="must be 1 to 9"):
        Plan(nodes)


def test_urls_have_ipv6_in_brackets() -> None:
    assert (url_host("172.18.0.1"), url_host("fd00::1")) == ("172.18.0.1", "[fd00::1]")


@pytest.mark.parametrize("name", ["Dev", "a-b", "1a", "a" * 13, "a/b"])
def test_names_that_would_mix_instances_up_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="must be 1 to 12 lower-case letters"):
        Instance.named(name)
    monkeypatch.setenv("METALLB_CLUSTER", name)
    with pytest.raises(ClusterError):
        Instance.named()


def test_a_state_folder_too_long_for_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALLB_STATE", "/" + "x" * 60)
    with pytest.raises(ClusterError, match="too long for unix sockets"):
        Instance.named("dev")


def test_an_instance_is_complete_only_within_one_run_of_the_machine(tmp_path: Path) -> None:
    instance = Instance("dev", tmp_path)
    with pytest.raises(ClusterError, match="no cluster 'dev' is up"):
        instance.read()
    instance.write(Plan(2, Family.IPV6), complete=False)
    assert instance.read() == (Plan(2, Family.IPV6), False)
    instance.write(Plan(2, Family.IPV6), complete=True)
    assert instance.read() == (Plan(2, Family.IPV6), True)
    data = json.loads(instance.settings.read_text())
    assert data["boot"] == boot_id()
    instance.settings.write_text(json.dumps(data | {"boot": "before"}))
    assert instance.read() == (Plan(2, Family.IPV6), False)
    instance.settings.write_text("{")
    with pytest.raises(ClusterError, match="is damaged"):
        instance.read()


def test_the_lock_leaves_no_file_behind_without_state(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with Instance("dev", base).locked():
        assert list(base.iterdir()) == [base / ".dev.lock"]
    assert not base.exists()


def test_a_process_is_known_by_its_start_time_too() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    assert running(Record(os.getpid(), mine))
    assert not running(Record(os.getpid(), mine - 1)), "the same id, another process"


def test_an_ended_process_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = start_time(child.pid)
        assert started is not None
        assert running(Record(child.pid, started))
        assert child.stdin is not None
        child.stdin.close()
        until = time.monotonic() + 30
        while start_time(child.pid) is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert start_time(child.pid) is None, "a zombie does not run"


@pytest.mark.parametrize(("word", "ran"), [(b"go\n", True), (b"", False)])
def test_nothing_starts_whose_starter_died_before_it_was_recorded(word: bytes, ran: bool, tmp_path: Path) -> None:
    group, mark = tmp_path / "cgroup.procs", tmp_path / "mark"
    argv = ["sh", "-c", _TRAMPOLINE, str(group), "touch", str(mark)]
    subprocess.run(argv, input=word, timeout=60, check=False)
    assert group.read_text().strip().isdigit(), "it joined its group first"
    assert mark.exists() is ran


ATTEMPTS = [
    (0.0, 0.1, "pod=a\nnode=node1\n"),
    (1.0, 1.5, "!timeout"),
    (2.0, 2.5, "!timeout"),
    (3.0, 3.1, "pod=b\nnode=node2\n"),
    (4.0, 4.1, "!Connection refused"),
]


def test_a_report_counts_outages_from_attempt_to_attempt() -> None:
    report = Report(ATTEMPTS)
    assert [(o.start, o.end) for o in report.outages] == [(1.0, 3.0), (4.0, 4.0)]
    assert report.longest == 2.0
    assert report.failures == {"!timeout": 2, "!Connection refused": 1}
    assert report.values("node") == {"node1": 1, "node2": 1}
    assert report.since(3.0).longest == 0.0
    assert Report([]).longest == 0.0


def test_attempts_during_a_stall_are_set_apart_whatever_came_of_them() -> None:
    report = Report.told(ATTEMPTS, [(1.4, 2.2), (3.1, 3.6)])
    assert [start for start, _, _ in report.attempts] == [0.0, 4.0]
    assert report.set_apart == "3 attempts (2 failed) left out: the machine stalled"
    assert report.since(2.5).set_apart == "1 attempts (0 failed) left out: the machine stalled"
    assert report.impatient(0.05).set_apart == report.set_apart
    assert Report.told(ATTEMPTS, []).attempts == ATTEMPTS
    assert Report.told(ATTEMPTS, []).set_apart == ""


class Page(http.server.BaseHTTPRequestHandler):
    """What a probe fetches, several at once: some attempt is always under way."""

    def do_GET(self) -> None:
        time.sleep(0.06)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pod=a\n")

    def log_message(self, *_: object) -> None:
        pass


def test_the_probe_knows_when_it_did_not_run() -> None:
    """Stopped for a second, with a limit of half a second for each attempt: nothing that it says is a failure."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        argv = [sys.executable, "-I", str(PROBE), "127.0.0.1", str(server.server_port), "/", "0.01", "0.5"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            with Probe(process) as probe:
                until("good answers", lambda: len(probe.report().good) > 20)
                process.send_signal(signal.SIGSTOP)
                time.sleep(1)
                process.send_signal(signal.SIGCONT)
                time.sleep(0.5)
                report = probe.report()
        finally:
            server.shutdown()
            thread.join()
    assert report.stalled
    assert not report.failures


@pytest.mark.parametrize(
    ("reset", "told"), [(True, "!broken: Connection reset by peer"), (False, "!Connection refused")]
)
def test_the_probe_tells_a_broken_connection_from_one_that_was_not_made(reset: bool, told: str) -> None:
    """Also one that has come about and was reset before the probe could look."""

    def serve(listener: socket.socket) -> None:
        there, _ = listener.accept()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()

    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            thread = threading.Thread(target=serve, args=(listener,))
            if reset:
                thread.start()
            else:
                listener.close()
            results: list[tuple[float, float, str]] = []
            task = asyncio.create_task(probe.attempt(results, ("127.0.0.1", port, "/"), 5.0))
            for _ in range(3):
                await asyncio.sleep(0)  # it calls
            time.sleep(0.3)  # noqa: ASYNC251  (nothing else runs meanwhile, which is the point)
            await task
            if reset:
                thread.join()
        [(_, _, text)] = results
        assert text.startswith(f"{told} (port ")

    asyncio.run(body())


def test_a_page_without_the_key_has_no_value() -> None:
    assert page_value("pod=a\nnode=node1\n", "node") == "node1"
    assert page_value("<html>", "node") == ""


def test_archives_are_the_same_bytes_for_the_same_files(tmp_path: Path) -> None:
    entries = {"bin/a": Entry(b"program", 0o755), "b": Entry(link="bin/a"), "tmp": Entry(folder=True, mode=0o1777)}
    for name in ("one.tar", "two.tar"):
        write(tmp_path / name, "localhost/x:1", entries, Settings(["/bin/a"], user="65534:65534"))
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        [manifest] = json.loads(tar.extractfile("manifest.json").read())
        assert manifest["RepoTags"] == ["localhost/x:1"]
        config = json.loads(tar.extractfile(manifest["Config"]).read())
        assert config["config"]["User"] == "65534:65534"
        layer = tar.extractfile("layer.tar")
        assert layer is not None
        with tarfile.open(fileobj=layer) as files:
            assert {m.name: oct(m.mode) for m in files} == {"b": "0o644", "bin/a": "0o755", "tmp": "0o1777"}
