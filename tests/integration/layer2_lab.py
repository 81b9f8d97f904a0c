"""Namespaces with one Ethernet between them, for layer 2 tests and benches: real veth, real frames.

A `Segment` is a bridge in a namespace of its own, with hosts attached to it. Everything it made is
gone when it is closed, also after a failure: namespaces take their interfaces with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_SERIAL = itertools.count()

#: Seconds that a test waits for what is to come. No target: the machine may do much else, or stand still for seconds.
LIMIT = 30.0
#: What a kernel that asks for a neighbour bears with: ten questions without an answer, a second apart, and not three.
_PATIENT = tuple(f"net.{ip}.neigh.eth0.{kind}cast_solicit=10" for ip in ("ipv4", "ipv6") for kind in ("m", "u"))


def run(*command: str, check: bool = True) -> str:
    """Standard output of a command. Raises CalledProcessError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets made in this block belong to the namespace. Only the calling thread moves."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if _LIBC.setns(there.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if _LIBC.setns(home.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


class Endpoint:
    """A namespace, its addresses, and raw sockets in it."""

    def __init__(self, namespace: str, ip4: str, ip6: str) -> None:
        self.namespace, self.ip4, self.ip6 = namespace, ip4, ip6

    @property
    def mac(self) -> bytes:
        with inside(self.namespace):
            return mac_of("eth0")

    def packet_socket(self, interface: str = "eth0", ether_type: int = 3) -> socket.socket:
        """A raw socket; `ether_type` 3 is all of them."""
        with inside(self.namespace):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind((interface, ether_type))
            sock.settimeout(LIMIT)
            return sock


class Host(Endpoint):
    """One namespace with `eth0` in the segment."""

    def __init__(self, segment: Segment, name: str, number: int) -> None:
        super().__init__(f"{segment.prefix}-{name}", f"10.9.0.{number}", f"fd09::{number:x}")
        self.segment = segment
        self.port = f"p-{name}"
        run("ip", "netns", "add", self.namespace)
        self.ip("link", "add", "eth0", "type", "veth", "peer", "name", self.port, "netns", segment.switch)
        run("ip", "-n", segment.switch, "link", "set", self.port, "master", "br0", "up")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "eth0", "up")
        self.ip("addr", "add", f"{self.ip4}/24", "dev", "eth0")
        self.ip("addr", "add", f"{self.ip6}/64", "dev", "eth0", "nodad")
        self.exec("sysctl", "-qw", *_PATIENT)

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.namespace, *arguments)

    def exec(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.namespace, *command, check=check)


class Segment:
    """A switch and the hosts on it."""

    def __init__(self, name: str = "l2") -> None:
        self.prefix = f"{name}-{os.getpid()}-{next(_SERIAL)}"
        self.switch = f"{self.prefix}-sw"
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Segment:
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for namespace in [*(host.namespace for host in self.hosts.values()), self.switch]:
            run("ip", "netns", "del", namespace, check=False)

    def host(self, name: str) -> Host:
        self.hosts[name] = host = Host(self, name, len(self.hosts) + 1)
        return host


def mac_of(interface: str) -> bytes:
    """The MAC address of an interface of the calling thread's namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        address: bytes = sock.getsockname()[4]
        return address


class Responder:
    """A process that runs `Layer2Edge` in a host's namespace and owns `addresses`; see `layer2_responder`."""

    def __init__(self, host: Host, *addresses: str, arguments: tuple[str, ...] = ()) -> None:
        root = Path(__file__).resolve().parent.parent.parent
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, sys.executable, "-m", "tests.integration.layer2_responder",
             *arguments, *addresses],
            cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._buffer = b""
        self.wait("ready")

    def wait(self, word: str, timeout: float = LIMIT) -> str:
        """The first line not read so far that begins with `word`. Raises TimeoutError."""
        assert self.process.stdout is not None
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                while b"\n" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\n")
                    self._lines.append(line.decode())
                    if self._lines[-1].startswith(word):
                        return self._lines[-1][len(word) :].strip()
                if not selector.select(max(0, end - time.monotonic())):
                    break
                read = os.read(self.process.stdout.fileno(), 65536)
                if not read:
                    break
                self._buffer += read
        raise TimeoutError(f"no {word!r} in: " + "\n".join(self._lines))

    def tell(self, line: str) -> None:
        """`own ADDRESS...`, `members MAC...`, `probe ADDRESS`, `status`: each is answered by `done`."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def cpu(self) -> float:
        """Seconds of processor time used so far, user and system."""
        return cpu_of(self.process.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Responder:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(condition: Callable[[], bool], timeout: float = LIMIT, step: float = 0.02) -> bool:
    """Whether `condition` came true in time. A page that is not answered is a condition that is not true yet."""
    end = time.monotonic() + timeout
    while True:
        with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
            if condition():
                return True
        if time.monotonic() > end:
            return False
        time.sleep(step)
