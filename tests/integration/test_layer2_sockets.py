"""The responder's sockets while things change around them: filters replaced under fire, renames, other kinds."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metallb_speaker.announcer.edge.packet import SOL_PACKET, attach
from metallb_speaker.announcer.layer2 import arp, bpf
from metallb_speaker.announcer.layer2 import ethernet as eth
from tests.integration.layer2_lab import Host, Responder, Segment, inside, mac_of, until
from tests.integration.layer2_table import OWNED4, OWNED6

pytestmark = pytest.mark.root

PACKET_STATISTICS = 6
#: Questions asked while filters are replaced, seconds between two, and how many of them may be without an answer:
#: the responder's buffer holds some three hundred, and it may have to wait for its turn on a busy machine.
ASKED, EVERY, UNDER_WAY = 4000, 0.0003, 100


@pytest.fixture
def segment() -> Iterator[Segment]:
    with Segment("l6sock") as made:
        yield made


def sockets(responder: Responder) -> set[str]:
    """What the process has open: `socket:[inode]`."""
    directory = Path(f"/proc/{responder.process.pid}/fd")
    names = {os.readlink(entry) for entry in directory.iterdir() if entry.exists() or entry.is_symlink()}
    return {name for name in names if name.startswith("socket:")}


def tell(responder: Responder, line: str) -> None:
    responder.tell(line)
    responder.wait("done")


def answers_for(client: Host, address: str) -> socket.socket:
    """Counts the replies for `address` to the client, whether it has room for them or not."""
    sock = client.packet_socket(ether_type=0)
    program: bpf.Block = [
        (bpf.LD_H, 0, 0, 20), *bpf.require(bpf.JEQ, 2, []),
        (bpf.LD_H, 0, 0, 0), *bpf.require(bpf.JEQ, int.from_bytes(client.mac[:2], "big"), []),
        (bpf.LD_W, 0, 0, 28), *bpf.require(bpf.JEQ, int.from_bytes(socket.inet_aton(address), "big"), []),
        (bpf.RET, 0, 0, 64),
    ]  # fmt: skip
    attach(sock, program)
    sock.bind(("eth0", eth.ETH_P_ARP))
    sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    return sock


@pytest.mark.parametrize("others", [40, 400], ids=["exact filters", "stand-ins and exact ones"])
def test_no_question_is_lost_while_filters_are_replaced(segment: Segment, others: int) -> None:
    """Addresses come and go by the hundred, members are doubted: one that stays is answered for all the time."""
    node, client = segment.host("node"), segment.host("client")
    with Responder(node, "--no-check", OWNED4, OWNED6) as responder:
        assert until(
            lambda: eth.mac_text(node.mac) in client.exec("arping", "-c1", "-w1", "-I", "eth0", OWNED4, check=False)
        )
        before = sockets(responder)
        counter, asker = answers_for(client, OWNED4), client.packet_socket()
        question = arp.request(client.mac, socket.inet_aton(client.ip4), socket.inet_aton(OWNED4))
        done, answered = threading.Event(), 0

        def all_but(under_way: int, asked: int) -> bool:
            nonlocal answered
            answered += struct.unpack("II", counter.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0]  # and it is reset
            return answered >= asked - under_way

        def ask() -> None:
            for asked in range(1, 1 + ASKED):
                asker.send(question)
                time.sleep(EVERY)
                if not until(lambda asked=asked: all_but(UNDER_WAY, asked), step=EVERY):  # type: ignore[misc]
                    break
            done.set()

        asking = threading.Thread(target=ask)
        asking.start()
        rounds = 0
        while not done.is_set():
            more = [f"10.9.{1 + n // 200}.{n % 200}" for n in range(others)][:: 1 + rounds % 3]
            tell(responder, " ".join(["own", OWNED4, OWNED6, *more, *(f"fd09::{n:x}" for n in range(0x900, 0x908))]))
            tell(responder, f"probe 10.9.0.{rounds % 200 + 1}")
            tell(responder, f"members 02:00:00:00:00:{rounds % 256:02x}")
            time.sleep(0.05 if rounds % 4 else 0.4)  # every now and then the exact filter has its time
            tell(responder, f"own {OWNED4} {OWNED6}")
            rounds += 1
        asking.join()
        until(lambda: all_but(0, ASKED), 10)
        assert rounds > 3
        assert answered == ASKED
        assert sockets(responder) >= before
        counter.close()
        asker.close()


def test_a_renamed_interface_goes_on(segment: Segment) -> None:
    """A running interface may be renamed since Linux 6.0; udev does it while it is down, in any case."""
    node, client = segment.host("node"), segment.host("client")
    with Responder(node, OWNED4) as responder:
        mac = eth.mac_text(node.mac)

        def answered() -> bool:
            return mac in client.exec("arping", "-c", "1", "-w", "1", "-I", "eth0", OWNED4, check=False)

        assert until(answered)
        node.ip("link", "set", "eth0", "down")
        node.ip("link", "set", "eth0", "name", "uplink0")
        node.ip("link", "set", "uplink0", "up")
        assert responder.wait("interfaces uplink0") == ""
        assert until(answered)
        # To a name that faces pods, and back.
        for name, used in (("veth77", False), ("enp1s0", True)):
            node.ip("link", "set", "uplink0" if used is False else "veth77", "down")
            node.ip("link", "set", "uplink0" if used is False else "veth77", "name", name)
            node.ip("link", "set", name, "up")
            if used:
                assert until(answered)
            else:
                assert until(lambda: not answered())


def test_a_macvlan_answers_with_its_own_address(segment: Segment) -> None:
    """Both it and the interface below are on the wire: each answers with its own MAC address where it is chosen."""
    node, client = segment.host("node"), segment.host("client")
    node.ip("link", "add", "lan0", "link", "eth0", "type", "macvlan", "mode", "bridge")
    node.ip("link", "set", "lan0", "up")
    with Responder(node, OWNED4) as responder, inside(node.namespace):
        below, above = eth.mac_text(node.mac), eth.mac_text(mac_of("lan0"))
        assert {responder.wait("Announcing").split("'")[3] for _ in range(2)} == {"eth0", "lan0"}
        out = ""

        def both() -> bool:
            nonlocal out
            out += client.exec("arping", "-c", "1", "-w", "1", "-I", "eth0", OWNED4, check=False)
            return below in out and above in out

        assert until(both)
