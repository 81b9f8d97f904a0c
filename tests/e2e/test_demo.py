"""`make demo`, as a newcomer runs it: again, killed half-way, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, images, toolchain

pytestmark = [pytest.mark.root, pytest.mark.cluster]

#: What the newcomer reads, in this order.
STORY = [
    r"^\$ make images package OUT=\S+$",
    r"^\$ kubectl create deployment web --image=nginx$",
    r"^\$ kubectl expose deployment web .*--type=LoadBalancer$",
    r"^web +LoadBalancer +\S+ +<pending>",
    r"name: my-ip-space",
    r"172\.18\.0\.200-172\.18\.0\.250",
    r"^\$ helm repo add metallb http://",
    r"^\$ helm install metallb metallb/metallb -f values\.yaml",
    r"^web +LoadBalancer +\S+ +172\.18\.0\.200 ",
    r"^\$ .* client curl -s .*http://172\.18\.0\.200/$",
    r"<title>Welcome to nginx!</title>",
    r'metallb-speaker +nodeAssigned +announcing from node "node[123]"',
    r"^node[123] answers ARP for 172\.18\.0\.200",
    r"^Done in \d+ s\. The cluster stays up\.",
    r"make demo-down",
]


class Newcomer:
    """Runs make targets for a demo of its own name."""

    def __init__(self, name: str, output: Path) -> None:
        self.name = name
        self.output = output
        # A newcomer's shell is not inside `make test`, which would have make tell of the folders it enters.
        strange = ("KUBECONFIG", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
        self.environment = {k: v for k, v in os.environ.items() if k not in strange} | {"METALLB_DEMO": name}

    def start(self, target: str) -> subprocess.Popen[bytes]:
        with open(self.output, "wb") as out:
            return subprocess.Popen(
                ["make", target],
                cwd=images.ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, target: str) -> str:
        """The whole output of a run that succeeds."""
        process = self.start(target)
        try:
            code = process.wait(600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        assert code == 0, self.output.read_text()
        return self.output.read_text()


@pytest.fixture(scope="module")
def newcomer(session_name: str, _needs_embedded: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    images.build(toolchain.say)
    one = Newcomer(f"d{session_name}", tmp_path_factory.mktemp("demo") / "output")
    yield one
    Cluster(one.name).down()


def _told_in_order(output: str) -> None:
    at = 0
    for pattern in STORY:
        found = re.compile(pattern, re.MULTILINE).search(output, at)
        assert found, f"after the first {at} characters there is no {pattern!r}:\n{output}"
        at = found.end()


def _fetched(name: str) -> str:
    curl = ("curl", "-s", "-m", "2", "--retry", "5", "--retry-all-errors", "http://172.18.0.200/")
    return Cluster.attach(name).run_in("client", *curl).stdout


def test_killed_half_way_and_run_again(newcomer: Newcomer) -> None:
    """SIGKILL to all of it while Helm installs; the next run starts afresh and tells the whole story."""
    process = newcomer.start("demo")
    limit = time.monotonic() + 600
    while "helm install" not in newcomer.output.read_text():
        assert process.poll() is None, newcomer.output.read_text()
        assert time.monotonic() < limit, newcomer.output.read_text()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    output = newcomer.run("demo")

    assert "starting afresh" in output
    _told_in_order(output)
    assert "Welcome to nginx" in _fetched(newcomer.name)


def test_what_to_try_next_works(newcomer: Newcomer) -> None:
    """The commands that it ends with, as they are printed, in one shell."""
    output = newcomer.output.read_text()
    commands = [line.strip() for line in output.partition("What to try next:")[2].splitlines() if line.strip()]
    wanted = [c for c in commands if not re.match(r"vi |.*demo-down", c)]
    assert len(wanted) == len(commands) - 2
    script = "\n".join(["set -e", *wanted]).replace(
        "curl -s", "curl -s -m 1 --retry 60 --retry-delay 1 --retry-all-errors"
    )
    made = ("delete", "deployment,service", "more", "--ignore-not-found")  # by this test, if it is run once more
    Cluster.attach(newcomer.name).kubectl(*made)
    told = subprocess.run(["bash", "-c", script], cwd=images.ROOT, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "service/more exposed" in told.stdout
    assert "Welcome to nginx" in told.stdout


def test_down_leaves_nothing(newcomer: Newcomer) -> None:
    output = newcomer.run("demo-down")
    assert "is down" in output
    cluster = Cluster(newcomer.name)
    assert not cluster.instance.folder.exists()
    assert newcomer.name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    left = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            left.append(process.read_bytes())
    assert not [c for c in left if str(cluster.instance.folder).encode() in c]
    assert "is not up" in newcomer.run("demo-down")


@pytest.mark.accept
def test_warm_demo_takes_a_minute_at_most(newcomer: Newcomer) -> None:
    output = newcomer.run("demo")
    seconds = int(re.search(r"^Done in (\d+) s", output, re.MULTILINE)[1])  # type: ignore[index]
    print(f"make demo, warm: {seconds} s (target 60 s): {'met' if seconds <= 60 else 'NOT met'}")
    assert seconds <= 60
