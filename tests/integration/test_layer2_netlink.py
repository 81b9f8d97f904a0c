"""rtnetlink against the kernel: what is read, what wakes us, what does not; and the IPVS warning."""

from __future__ import annotations

import ipaddress
import json
import os
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from metallb_speaker.announcer.edge import netlink
from metallb_speaker.announcer.edge.netlink import Netlink
from metallb_speaker.announcer.layer2.interfaces import Snapshot, judge
from tests.integration.layer2_lab import LIMIT, Host, Responder, Segment, inside, run, until

pytestmark = pytest.mark.root


class Watcher:
    """A `Netlink` in a namespace, with a loop."""

    def __init__(self, host: Host) -> None:
        self.selector = selectors.DefaultSelector()
        self.pictures: list[Snapshot] = []
        self.netlink = Netlink(self._watch, self._unwatch, lambda snapshot, now: self.pictures.append(snapshot))
        with inside(host.namespace):
            self.netlink.open(time.monotonic())
        self.turn_until(lambda: bool(self.pictures))

    def _watch(self, fd: int, handler: Callable[[float], None]) -> None:
        self.selector.register(fd, selectors.EVENT_READ, handler)

    def _unwatch(self, fd: int) -> None:
        self.selector.unregister(fd)

    @property
    def picture(self) -> Snapshot:
        return self.pictures[-1]

    def turn_until(self, condition: Callable[[], bool], timeout: float = LIMIT) -> bool:
        end = time.monotonic() + timeout
        while not condition():
            now = time.monotonic()
            if now >= end:
                return False
            for key, _ in self.selector.select(max(0, min(end, self.netlink.deadline()) - now)):
                key.data(time.monotonic())
            self.netlink.on_deadline(time.monotonic())
        return True

    def settle(self) -> None:
        """Wait until three seconds bring no other picture: what an interface's own start still brings."""
        before = -1
        while before != len(self.pictures):
            before = len(self.pictures)
            self.turn_until(lambda: False, 3.0)

    def has(self, condition: Callable[[Snapshot], bool]) -> bool:
        return self.turn_until(lambda: condition(self.picture))

    def close(self) -> None:
        self.netlink.close()
        self.selector.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with Segment("l2nl") as segment:
        yield segment.host("node")


@pytest.fixture
def watcher(host: Host) -> Iterator[Watcher]:
    made = Watcher(host)
    yield made
    made.close()


def names(picture: Snapshot) -> set[str]:
    return {link.name for link in picture.links}


def test_links_are_what_ip_shows(host: Host, watcher: Watcher) -> None:
    host.ip("link", "add", "br-lan", "type", "bridge")
    host.ip("link", "add", "cni0", "type", "bridge")
    host.ip("link", "add", "vetha", "type", "veth", "peer", "name", "vethb")
    host.ip("link", "set", "vetha", "master", "br-lan")
    host.ip("link", "set", "br-lan", "up")
    host.ip("link", "add", "mv0", "link", "eth0", "type", "macvlan")
    host.ip("link", "set", "mv0", "up", "arp", "off")
    assert watcher.has(lambda p: "mv0" in names(p) and judge(p.links)[_index(p, "mv0")] == "noARP")
    shown = {link["ifname"]: link for link in json.loads(run("ip", "-j", "-d", "-n", host.namespace, "link"))}
    assert names(watcher.picture) == set(shown)
    for link in watcher.picture.links:
        other = shown[link.name]
        assert link.index == other["ifindex"]
        assert link.mac.hex(":") == other["address"]
        assert bool(link.flags & 1) is ("UP" in other["flags"])
        assert link.kind == other.get("linkinfo", {}).get("info_kind", "")
        assert link.slave_kind == other.get("linkinfo", {}).get("info_slave_kind", "")
        assert bool(link.master) is ("master" in other)
    reasons = {link.name: judge(watcher.picture.links)[link.index] for link in watcher.picture.links}
    assert reasons == {
        "lo": "loopback", "eth0": "", "br-lan": "", "cni0": "down", "vetha": "down", "vethb": "down", "mv0": "noARP",
    }  # fmt: skip


def _index(picture: Snapshot, name: str) -> int:
    return next(link.index for link in picture.links if link.name == name)


def on_link(picture: Snapshot) -> set[str]:
    return {str(route.network) for route in picture.on_link if route.index == _index(picture, "eth0")}


def test_connected_routes(host: Host, watcher: Watcher) -> None:
    assert on_link(watcher.picture) == {"10.9.0.0/24", "fd09::/64"}
    host.ip("addr", "add", "192.0.2.5/26", "dev", "eth0")
    host.ip("addr", "add", "198.51.100.1", "peer", "198.51.100.8/30", "dev", "eth0")
    host.ip("addr", "add", "203.0.113.1/32", "dev", "eth0")
    host.ip("addr", "add", "2001:db8:5::5/48", "dev", "eth0", "nodad")
    host.ip("addr", "add", "100.64.0.1/16", "dev", "eth0", "noprefixroute")
    host.ip("route", "add", "10.50.0.0/16", "dev", "eth0")
    host.ip("-6", "route", "add", "2001:db8:6::/48", "dev", "eth0")
    host.ip("route", "add", "10.60.0.0/16", "via", "10.9.0.254")
    host.ip("route", "add", "10.70.0.0/16", "dev", "eth0", "table", "77")
    host.ip("route", "add", "10.80.0.7/32", "dev", "eth0")
    host.ip("route", "add", "unreachable", "10.90.0.0/16")
    host.ip("route", "add", "default", "via", "10.9.0.254")
    expected = {
        "10.9.0.0/24", "fd09::/64", "192.0.2.0/26", "198.51.100.8/30", "2001:db8:5::/48", "10.50.0.0/16",
        "2001:db8:6::/48",
    }  # fmt: skip
    assert watcher.has(lambda p: on_link(p) == expected), on_link(watcher.picture)
    host.ip("addr", "del", "192.0.2.5/26", "dev", "eth0")
    host.ip("route", "del", "10.50.0.0/16")
    expected -= {"192.0.2.0/26", "10.50.0.0/16"}
    assert watcher.has(lambda p: on_link(p) == expected), on_link(watcher.picture)


def test_link_local_addresses(host: Host, watcher: Watcher) -> None:
    index = _index(watcher.picture, "eth0")
    assert watcher.has(lambda p: index in dict(p.link_local))
    address = str(ipaddress.IPv6Address(dict(watcher.picture.link_local)[index]))
    assert address in host.ip("-6", "addr", "show", "dev", "eth0")


def test_a_routing_daemons_routes_do_not_wake_us(host: Host, watcher: Watcher) -> None:
    """A full table is a million of them."""
    watcher.settle()
    before = len(watcher.pictures)
    for number in range(20):
        host.ip("route", "add", f"10.{100 + number}.0.0/16", "via", "10.9.0.254", "proto", "bird")
    watcher.turn_until(lambda: False, 0.5)
    assert len(watcher.pictures) == before
    host.ip("route", "add", "10.50.0.0/16", "dev", "eth0", "proto", "static")
    assert watcher.has(lambda p: "10.50.0.0/16" in on_link(p))
    assert on_link(watcher.picture) == {"10.9.0.0/24", "fd09::/64", "10.50.0.0/16"}


def test_lost_notifications_cost_nothing(host: Host, watcher: Watcher) -> None:
    """ENOBUFS: the socket's buffer was full. What was lost is read from the kernel."""
    assert watcher.netlink._monitor is not None
    watcher.netlink._monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(60):
        host.ip("addr", "add", f"172.20.{number}.1/24", "dev", "eth0")
    expected = {f"172.20.{number}.0/24" for number in range(60)}
    assert watcher.has(lambda p: expected <= on_link(p))


def test_many_changes_are_read_in_few_readings(host: Host, watcher: Watcher) -> None:
    before, begin = len(watcher.pictures), time.monotonic()
    commands = "".join(f"link add d{n} type bridge\n" for n in range(80))
    subprocess.run(["ip", "-n", host.namespace, "-batch", "-"], input=commands, text=True, check=True)
    assert watcher.has(lambda p: "d79" in names(p))
    assert len(watcher.pictures) - before <= 2 + (time.monotonic() - begin) / netlink.PACE


def test_a_reading_that_gets_stuck_is_begun_anew(host: Host, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "PATIENCE", 0.2)
    assert watcher.netlink._worker is not None
    watcher.turn_until(lambda: False, 0.5)

    class Deaf:
        """A reader whose requests get lost once."""

        def __init__(self, real: socket.socket) -> None:
            self.real, self.lost = real, 0

        def send(self, data: bytes) -> int:
            if not self.lost:
                self.lost += 1
                return len(data)
            return self.real.send(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    deaf = Deaf(watcher.netlink._worker.reader)
    watcher.netlink._worker.reader = deaf  # type: ignore[assignment]
    host.ip("addr", "add", "192.0.2.5/26", "dev", "eth0")
    assert watcher.has(lambda p: "192.0.2.0/26" in on_link(p))
    assert deaf.lost == 1


def test_a_kernel_that_makes_us_wait_does_not_hold_the_loop_up(host: Host, watcher: Watcher) -> None:
    """A dump waits for every change of an interface that is under way: here for a hundred turns of the loop."""
    assert watcher.netlink._worker is not None
    watcher.turn_until(lambda: False, 0.5)

    class Slow:
        def __init__(self, real: socket.socket) -> None:
            self.real, self.waited = real, 0
            self.enough, self.turned = threading.Event(), False

        def send(self, data: bytes) -> int:
            self.waited += 1
            if self.waited == 1:
                self.turned = self.enough.wait(LIMIT)
            return self.real.send(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    slow = Slow(watcher.netlink._worker.reader)
    watcher.netlink._worker.reader = slow  # type: ignore[assignment]
    turns = 0

    def seen() -> bool:
        nonlocal turns
        watcher.netlink.on_deadline(time.monotonic())
        for key, _ in watcher.selector.select(0.005):
            key.data(time.monotonic())
        turns += slow.waited == 1
        if turns == 100:
            slow.enough.set()
        return "192.0.2.0/26" in on_link(watcher.picture)

    host.ip("addr", "add", "192.0.2.5/26", "dev", "eth0")
    assert until(seen, 2 * LIMIT, 0)
    assert slow.turned, "the loop turned while the request waited"
    assert slow.waited > 1


def test_closing_ends_the_thread(host: Host) -> None:
    before = set(os.listdir("/proc/self/fd"))
    made = Watcher(host)
    worker = made.netlink._worker
    assert worker is not None
    made.close()
    worker.join(LIMIT)
    assert not worker.is_alive()
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_ipvs_warning_comes_and_goes(host: Host) -> None:
    """A bridge by the name of kube-proxy's interface stands in where the kernel has no dummy interfaces."""
    setting = "net.ipv4.conf.all.arp_ignore"
    host.exec("sysctl", "-qw", f"{setting}=0", "net.ipv4.conf.eth0.arp_ignore=0")
    with Responder(host, "10.9.0.100") as responder:

        def warning() -> str:
            responder.tell("status")
            return str(json.loads(responder.wait("status"))["ipvsConflict"])

        assert warning() == ""
        host.ip("link", "add", "kube-ipvs0", "type", "bridge")
        told = responder.wait("IpvsConflict")
        assert "strictARP: true" in told
        assert "eth0" in warning()
        host.exec("sysctl", "-qw", f"{setting}=1")
        host.ip("link", "add", "other", "type", "bridge")  # any change makes us look again; a minute does, too
        assert until(lambda: warning() == "")
        assert warning() == ""
