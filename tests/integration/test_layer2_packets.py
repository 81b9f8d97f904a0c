"""Layer 2 on real interfaces: the table of frames, and ordinary programs as clients."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether

from metallb_speaker.announcer.layer2 import ethernet as eth
from tests.integration.layer2_lab import LIMIT, Host, Responder, Segment, inside, mac_of, run, until
from tests.integration.layer2_table import (
    ARP_ROWS,
    FOREIGN4,
    NDP_ROWS,
    OWNED4,
    OWNED6,
    Row,
    Wire,
    judge_arp,
    judge_ndp,
)

pytestmark = pytest.mark.root


class Bench:
    """A node that owns OWNED4 and OWNED6, a client, and the client's sockets."""

    def __init__(self, node: Host, client: Host, responder: Responder) -> None:
        self.node, self.client, self.responder = node, client, responder
        self.wire = Wire(eth.mac_text(client.mac), client.ip4, client.ip6, eth.mac_text(node.mac))
        self.socket = client.packet_socket()

    def state(self, address: str) -> str:
        return str(self.status()["addresses"].get(address, {}).get("eth0", ""))

    def status(self) -> dict[str, Any]:
        self.responder.tell("status")
        answer: dict[str, Any] = json.loads(self.responder.wait("status"))
        self.responder.wait("done")
        return answer

    def ask(self, frame: bytes, wait: float, *, dad: bool = False) -> list[bytes]:
        """Send a frame; every answer of the node's that concerns an owned address, within `wait` seconds."""
        self.socket.setblocking(False)
        while True:
            try:
                self.socket.recv(2048)
            except BlockingIOError:
                break
        self.socket.send(frame)
        end, out = time.monotonic() + wait, []
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                heard = self.socket.recv(2048)
            except TimeoutError:
                break
            if self._is_answer(heard, dad):
                out.append(heard)
                end = min(end, time.monotonic() + 0.03)  # a second answer would follow at once
        return out

    def _is_answer(self, frame: bytes, dad: bool) -> bool:
        """Announcements are none; that of NDP has the form of the answer to duplicate address detection."""
        packet = Ether(frame)
        if packet.src != self.wire.node:
            return False
        if ARP in packet:
            return packet[ARP].op == 2 and packet[ARP].psrc == OWNED4 and packet[ARP].pdst != OWNED4
        return ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt == OWNED6 and (dad or packet[ICMPv6ND_NA].S == 1)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Segment() as segment:
        node, client = segment.host("node"), segment.host("client")
        with Responder(node, OWNED4, OWNED6) as responder:
            made = Bench(node, client, responder)
            try:
                assert until(lambda: made.state(OWNED4) == made.state(OWNED6) == "settled")
                time.sleep(0.5)  # the announcements of the first three seconds are over; the next comes at seven
                yield made
            finally:
                made.socket.close()


@pytest.mark.parametrize("row", ARP_ROWS, ids=lambda row: row.name)
def test_arp_table(bench: Bench, row: Row) -> None:
    answers = bench.ask(row.frame(bench.wire), LIMIT if row.answered else 0.06)
    if row.answered:
        assert len(answers) == 1
        judge_arp(row, bench.wire, answers[0])
    else:
        assert answers == []


@pytest.mark.parametrize("row", NDP_ROWS, ids=lambda row: row.name)
def test_ndp_table(bench: Bench, row: Row) -> None:
    answers = bench.ask(row.frame(bench.wire), LIMIT if row.answered else 0.06, dad=row.dad)
    if row.answered:
        assert len(answers) == 1
        judge_ndp(row, bench.wire, answers[0])
    else:
        assert answers == []


def test_the_kernel_filter_refuses_what_is_not_ours(bench: Bench) -> None:
    """Rows that concern no owned address cost no Python: they are not even counted as dropped."""
    before = bench.status()["drops"]
    for row in ARP_ROWS + NDP_ROWS:
        if row.reason in ("notOwned", "tagged", "notForUs", "notEthernetIPv4", "wrongType", "badHopLimit"):
            bench.ask(row.frame(bench.wire), 0.01)
    assert bench.status()["drops"] == before


def test_counters_follow_questions_and_answers(bench: Bench) -> None:
    def count(metric: str) -> int:
        return bench.status()["counters"][f"{metric} {OWNED4}"]

    received, sent = count("requests_received"), count("responses_sent")
    for _ in range(3):
        assert bench.ask(ARP_ROWS[0].frame(bench.wire), LIMIT)
    assert (count("requests_received"), count("responses_sent")) == (received + 3, sent + 3)


def test_arping(bench: Bench) -> None:
    out = bench.client.exec("arping", "-c", "3", "-w", "15", "-I", "eth0", OWNED4)
    assert out.count(bench.wire.node) == 3


def test_arping_in_duplicate_address_detection_mode(bench: Bench) -> None:
    out = bench.client.exec("arping", "-d", "-0", "-c", "2", "-w", "15", "-I", "eth0", OWNED4, check=False)
    assert bench.wire.node in out


def test_ndisc6(bench: Bench) -> None:
    out = bench.client.exec("ndisc6", "-1", OWNED6, "eth0")
    assert bench.wire.node in out.lower()


@pytest.mark.parametrize("address", [OWNED4, OWNED6])
def test_the_kernel_resolves_and_keeps_the_neighbor(bench: Bench, address: str) -> None:
    """Resolution by broadcast or multicast; then, when the entry is stale, a unicast question."""
    bench.client.ip("neigh", "flush", "all")
    version = "-6" if ":" in address else "-4"

    def entry() -> str:
        return bench.client.ip(version, "neigh", "show", address, "dev", "eth0")

    with inside(bench.client.namespace):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"?", (address, 9))
            assert until(lambda: "REACHABLE" in entry())
            assert bench.wire.node in entry()
            bench.client.ip("neigh", "change", address, "lladdr", bench.wire.node, "dev", "eth0", "nud", "probe")
            assert until(lambda: "REACHABLE" in entry())


def test_the_kernel_detects_a_duplicate_of_our_address(bench: Bench) -> None:
    # The kernel asks once and waits for a second by default: less than the responder may have to wait for its turn.
    bench.client.exec("sysctl", "-qw", "net.ipv6.conf.eth0.dad_transmits=10")
    bench.client.ip("addr", "add", f"{OWNED6}/64", "dev", "eth0")
    try:
        assert until(lambda: "dadfailed" in bench.client.ip("addr", "show", "dev", "eth0"))
    finally:
        bench.client.ip("addr", "del", f"{OWNED6}/64", "dev", "eth0")


def test_a_flood_of_foreign_questions_costs_nothing(bench: Bench) -> None:
    frame = next(row for row in ARP_ROWS if row.name == "address not owned").frame(bench.wire)
    bench.socket.setblocking(True)
    cpu = bench.responder.cpu()
    for _ in range(40000):
        bench.socket.send(frame)
    # Some ticks of the clock, which may hit it by chance; in Python it would be more than twice as much.
    assert bench.responder.cpu() - cpu <= 0.15


def test_a_flood_of_owned_questions_is_survived(bench: Bench) -> None:
    frame = ARP_ROWS[0].frame(bench.wire)
    bench.socket.setblocking(True)
    for _ in range(20000):
        bench.socket.send(frame)
    time.sleep(0.2)
    assert bench.ask(frame, LIMIT)
    assert bench.ask(NDP_ROWS[0].frame(bench.wire), LIMIT)


Heard = list[tuple[float, Ether]]


def listen(sock: socket.socket, enough: Callable[[Heard], object], seconds: float = LIMIT) -> Heard:
    """(seconds since the call, frame) of ARP and ICMPv6 that a packet socket hears, until it is enough."""
    begin, out = time.monotonic(), []
    while not enough(out) and (left := begin + seconds - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            frame = Ether(sock.recv(2048))
        except TimeoutError:
            break
        if ARP in frame or ICMPv6ND_NA in frame or ICMPv6ND_NS in frame:
            out.append((time.monotonic() - begin, frame))
    return out


def test_take_over_announces_and_moves_caches() -> None:
    with Segment() as segment:
        first, second, client = segment.host("first"), segment.host("second"), segment.host("client")
        with Responder(first, OWNED4, OWNED6) as a, Responder(second) as b:
            macs = [eth.mac_text(host.mac) for host in (first, second)]
            for responder in (a, b):
                responder.tell("members " + " ".join(macs))
                responder.wait("done")
            for address in (OWNED4, OWNED6):
                with inside(client.namespace):
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    with socket.socket(family, socket.SOCK_DGRAM) as sock:
                        sock.sendto(b"?", (address, 9))
                assert until(lambda: macs[0] in client.ip("neigh", "show", address))  # noqa: B023
            # The old owner still answers, as in an ordered hand-over: its MAC address is a member's. It hears the
            # claim, and lets go.

            def claims(heard: Heard) -> Heard:
                return [(at, f) for at, f in heard if ARP in f and f.src == macs[1] and f[ARP].psrc == OWNED4]

            def repeats(heard: Heard) -> Heard:
                return [(at, f) for at, f in claims(heard) if at - claims(heard)[0][0] > 0.2]

            def unsolicited(heard: Heard) -> list[Ether]:
                return [f for _, f in heard if ICMPv6ND_NA in f and f.src == macs[1] and f.dst == "33:33:00:00:00:01"]

            with client.packet_socket() as sock, ThreadPoolExecutor(1) as pool:
                listening = pool.submit(listen, sock, lambda heard: repeats(heard) and unsolicited(heard))
                b.tell(f"own {OWNED4} {OWNED6}")
                assert {a.wait("Claimed").split("'")[1] for _ in range(2)} == {OWNED4, OWNED6}
                a.tell("own")
                a.wait("done")
                heard = listening.result()
            for address in (OWNED4, OWNED6):
                assert macs[1] in client.ip("neigh", "show", address)
            assert {f[ARP].op for at, f in claims(heard)[:2]} == {1, 2}
            assert repeats(heard)
            assert unsolicited(heard)
            assert all((f[ICMPv6ND_NA].S, f[ICMPv6ND_NA].O) == (0, 1) for f in unsolicited(heard))


def test_a_host_that_has_the_address_is_found_and_respected() -> None:
    with Segment() as segment:
        node, host, client = segment.host("node"), segment.host("host"), segment.host("client")
        host.ip("addr", "add", f"{OWNED4}/24", "dev", "eth0")
        host.ip("addr", "add", f"{OWNED6}/64", "dev", "eth0", "nodad")
        with Responder(node, OWNED4, OWNED6) as responder:
            told = responder.wait("Conflict") + responder.wait("Conflict")
            assert eth.mac_text(host.mac) in told
            assert told.count("withheld=True") == 2
            out = client.exec("arping", "-c", "2", "-w", "15", "-I", "eth0", OWNED4)
            assert eth.mac_text(host.mac) in out
            assert eth.mac_text(node.mac) not in out
            host.ip("addr", "del", f"{OWNED4}/24", "dev", "eth0")
            host.ip("addr", "del", f"{OWNED6}/64", "dev", "eth0")
            gone = responder.wait("ConflictGone", 60) + responder.wait("ConflictGone", 60)
            assert OWNED4 in gone
            assert OWNED6 in gone
            assert eth.mac_text(node.mac) in client.exec("arping", "-c", "1", "-w", "15", "-I", "eth0", OWNED4)


def test_a_probe_tells_who_answers() -> None:
    with Segment() as segment:
        node, host = segment.host("node"), segment.host("host")
        with Responder(node) as responder:
            for address, expected in (
                (host.ip4, eth.mac_text(host.mac)),
                (host.ip6, eth.mac_text(host.mac)),
                (FOREIGN4, "macs=()"),
            ):
                responder.tell(f"probe {address}")
                assert expected in responder.wait("ProbeResult")


def test_interfaces_come_and_go() -> None:
    with Segment() as segment:
        node, client = segment.host("node"), segment.host("client")
        with Responder(node, OWNED4) as responder:
            mac = eth.mac_text(node.mac)

            def answered() -> bool:
                return mac in client.exec("arping", "-c", "1", "-w", "1", "-I", "eth0", OWNED4, check=False)

            assert until(answered)
            node.ip("link", "set", "eth0", "down")
            assert responder.wait("interfaces") == ""
            node.ip("link", "set", "eth0", "up")
            assert responder.wait("interfaces") == "eth0"
            assert until(answered)
            # Another MAC address: answers and announcements carry the new one.
            mac = "02:00:00:00:0a:0a"
            node.ip("link", "set", "eth0", "address", mac)
            assert responder.wait("interfaces") == "eth0", "the others are told"
            assert until(answered)
            node.ip("link", "del", "eth0")
            while responder.wait("interfaces"):
                """What was said of the carrier and the routes on the way."""
            assert responder.process.poll() is None


def test_a_bridge_answers_and_its_ports_do_not() -> None:
    """The commonest way to be unreachable with other implementations: the node's address is on a bridge."""
    with Segment() as segment:
        node, client = segment.host("node"), segment.host("client")
        node.ip("link", "add", "br0", "type", "bridge")
        node.ip("addr", "flush", "dev", "eth0")
        node.ip("link", "set", "eth0", "master", "br0")
        node.ip("link", "set", "br0", "up")
        node.ip("addr", "add", f"{node.ip4}/24", "dev", "br0")
        with Responder(node, OWNED4) as responder, inside(node.namespace):
            mac = eth.mac_text(mac_of("br0"))
            assert "br0" in responder.wait("Announcing")
            assert until(
                lambda: client.exec("arping", "-c", "1", "-w", "1", "-I", "eth0", OWNED4, check=False).count(mac) == 1
            )
            responder.tell("status")
            status = json.loads(responder.wait("status"))
            assert status["interfaces"]["eth0"] == "enslaved"
            assert status["interfaces"]["br0"] == "used"


def test_multicast_groups_are_joined_and_left() -> None:
    with Segment() as segment:
        node = segment.host("node")

        def groups() -> str:
            return node.ip("maddr", "show", "dev", "eth0")

        addresses = [f"fd09::{number:x}" for number in range(0x1000, 0x1000 + 450)]
        with Responder(node, "--", *addresses) as responder:

            def missing() -> list[str]:
                shown = groups()
                lows = [address.split("::")[1] for address in addresses]
                return [low for low in lows if not re.search(rf"inet6 ff02::1:ff00:{low}\b", shown)]

            assert until(lambda: not missing()), missing()
            assert "33:33:ff:00:10:00" in groups()
            responder.tell(f"own {addresses[0]}")
            responder.wait("done")
            assert until(lambda: len(missing()) == len(addresses) - 1)
            assert "ff02::1:ff00:1000" in groups()
        assert "ff02::1:ff00:1000" not in groups()


def test_without_the_right_to_raw_sockets_it_says_so() -> None:
    capsh = shutil.which("capsh")
    assert capsh
    done = subprocess.run(
        [capsh, "--drop=cap_net_raw", "--", "-c",
         ".venv/bin/python -m tests.integration.layer2_responder 192.0.2.1 </dev/null"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "PermissionError" in done.stderr


def test_nothing_is_left_behind() -> None:
    with Segment("l2left") as segment:
        segment.host("a")
        prefix = segment.prefix
        assert prefix in run("ip", "netns", "list")
    assert prefix not in run("ip", "netns", "list")
