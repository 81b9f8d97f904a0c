"""Kernel filters, run by an interpreter of our own and loaded into the kernel."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from collections.abc import Callable, Iterable

import pytest

from metallb_speaker.announcer.edge import packet
from metallb_speaker.announcer.layer2 import arp, bpf, ndp
from metallb_speaker.announcer.layer2.filter import SNAP, arp_program, ndp_program
from tests.integration.layer2_table import ARP_ROWS, NDP_ROWS, OWNED4, OWNED6
from tests.unit.speaker.layer2 import cbpf
from tests.unit.speaker.layer2.test_frames import WIRE

MAC = bytes.fromhex("020000000001")
Generate = Callable[..., bpf.Block]


def v4(value: int) -> bytes:
    return value.to_bytes(4, "big")


def v6(value: int, prefix: str = "fd09::") -> bytes:
    return (int(ipaddress.IPv6Address(prefix)) + value).to_bytes(16, "big")


def asks4(ip: bytes) -> bytes:
    return arp.request(MAC, v4(0x0A090002), ip)


def asks6(ip: bytes) -> bytes:
    return ndp.probe(MAC, ndp.link_local(MAC), ip)


def kept(program: bpf.Block, frame: bytes) -> bool:
    return cbpf.run(program, frame)[0] > 0


@pytest.mark.parametrize("generate", [arp_program, ndp_program])
def test_nothing_owned_lets_nothing_through(generate: Generate) -> None:
    program = generate((), 1)
    cbpf.check(program)
    assert not kept(program, asks4(v4(0)))
    assert not kept(program, asks6(v6(0)))


@pytest.mark.parametrize("row", ARP_ROWS + NDP_ROWS, ids=lambda row: row.name)
def test_the_table(row: object) -> None:
    """What must be answered passes; what can be refused by octets alone does not."""
    v6_row = row in NDP_ROWS
    target = ipaddress.ip_address(OWNED6 if v6_row else OWNED4).packed
    program = (ndp_program if v6_row else arp_program)([target], 1)
    cbpf.check(program)
    passed = kept(program, row.frame(WIRE))  # type: ignore[attr-defined]
    if row.answered or row.reason == "foreignClaim":  # type: ignore[attr-defined]
        assert passed
    if row.reason in {"notOwned", "notEthernetIPv4", "wrongType", "badHopLimit", "badCode"}:  # type: ignore[attr-defined]
        assert not passed


@pytest.mark.parametrize(
    ("about", "passes"),
    [
        ({}, True),
        ({"pkttype": 1}, True),
        ({"pkttype": 2}, True),
        ({"pkttype": 3}, False),  # to another host, or tagged for a VLAN that is not configured
        ({"pkttype": 4}, False),  # sent by ourselves
        ({"ifindex": 2}, False),  # received through a VLAN interface on top of this one
        ({"vlan": 7}, False),
        ({"vlan": 0xE000}, True),  # tag 0: a priority, no VLAN
    ],
)
@pytest.mark.parametrize("family", [4, 6])
def test_what_the_kernel_knows_of_the_frame(about: dict[str, int], passes: bool, family: int) -> None:
    program = arp_program([v4(9)], 1) if family == 4 else ndp_program([v6(9)], 1)
    assert (cbpf.run(program, asks4(v4(9)) if family == 4 else asks6(v6(9)), **about)[0] > 0) is passes


def test_a_reply_passes_by_its_sender() -> None:
    """So that the answer to a probe, whose target is unspecified, is heard."""
    program = arp_program([v4(9)], 1)
    claims = arp.Arp(MAC, MAC, 2, MAC, v4(9), MAC, v4(0)).encode()
    other = arp.Arp(MAC, MAC, 2, MAC, v4(8), MAC, v4(9)).encode()
    assert kept(program, claims)
    assert not kept(program, other)


def sets(bits: int) -> Iterable[tuple[str, list[int]]]:
    source = random.Random(20260101)
    yield "one", [5]
    yield "the extremes", [0, (1 << bits) - 1]
    yield "a range", list(range(1000, 1600))
    yield "every second", list(range(0, 6000, 2))
    for count in (2, 17, 100, 700, 1500, 2600, 3400):
        yield f"{count} at random", source.sample(range(1 << 31), count)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("name", "values"), list(sets(32)), ids=lambda x: x if isinstance(x, str) else "")
def test_exact_while_it_fits(family: int, name: str, values: list[int]) -> None:
    make, ask, generate = (v4, asks4, arp_program) if family == 4 else (v6, asks6, ndp_program)
    program = generate([make(value) for value in values], 1)
    cbpf.check(program)
    known = set(values)
    near = {value + step for value in values for step in (-1, 0, 1)} | {0, (1 << 32) - 1, 12345}
    for value in near:
        if 0 <= value < 1 << 32:
            assert kept(program, ask(make(value))) is (value in known), value


def test_many_prefixes() -> None:
    """IPv6 addresses of different networks: each of the four words decides somewhere."""
    prefixes = ["fd09::", "fd09:0:0:1::", "fd0a::", "2001:db8::", "2001:db8:0:0:1::", "2001:db8:1::", "fe80::"]
    owned = {v6(value, prefix) for prefix in prefixes for value in (1, 2, 3, 0x100)}
    program = ndp_program(owned, 1)
    cbpf.check(program)
    for prefix in [*prefixes, "fd09:0:0:2::", "2001:db8:2::", "::"]:
        for value in range(0x102):
            assert kept(program, asks6(v6(value, prefix))) is (v6(value, prefix) in owned)


@pytest.mark.parametrize("count", [5000, 20000])
@pytest.mark.parametrize("family", [4, 6])
def test_a_superset_when_it_does_not_fit(family: int, count: int) -> None:
    make, ask, generate = (v4, asks4, arp_program) if family == 4 else (v6, asks6, ndp_program)
    source = random.Random(7)
    values = source.sample(range(1 << 32), count)
    program = generate([make(value) for value in values], 1)
    cbpf.check(program)
    assert all(kept(program, ask(make(value))) for value in values)
    strangers = [value for value in source.sample(range(1 << 32), 2000) if value not in set(values)]
    through = sum(kept(program, ask(make(value))) for value in strangers)
    assert through < len(strangers) * 0.75  # it still refuses: of spread addresses, what the widest gaps hold


@pytest.mark.parametrize("limit", [64, 128, 512, 2048])
@pytest.mark.parametrize("generate", [arp_program, ndp_program])
def test_a_smaller_limit_is_kept(generate: Generate, limit: int) -> None:
    values = random.Random(3).sample(range(1 << 32), 3000)
    made = [v4(value) if generate is arp_program else v6(value) for value in values]
    program = generate(made, 1, limit)
    assert len(program) <= limit
    cbpf.check(program)
    asked = asks4 if generate is arp_program else asks6
    assert all(kept(program, asked(ip)) for ip in made)


def test_the_search_is_logarithmic() -> None:
    values = random.Random(5).sample(range(1 << 32), 600)
    program = arp_program([v4(value) for value in values], 1)
    assert max(cbpf.run(program, asks4(v4(value)))[1] for value in values) < 45


def test_octets_handed_up_hold_any_question() -> None:
    assert cbpf.run(arp_program([v4(1)], 1), asks4(v4(1)))[0] == SNAP


@pytest.mark.root
@pytest.mark.parametrize("count", [0, 1, 100, 3000, 20000])
@pytest.mark.parametrize("generate", [arp_program, ndp_program])
def test_the_kernel_takes_the_programs(generate: Generate, count: int) -> None:
    values = random.Random(3).sample(range(1 << 32), count)
    made = [v4(value) if generate is arp_program else v6(value) for value in values]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        packet.attach(sock, bpf.DROP)
        packet.attach(sock, generate(made, 1))


@pytest.mark.root
def test_a_kernel_with_little_option_memory_gets_a_smaller_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.7 a socket may hold 20 KiB, filter included: then 4,096 instructions are refused."""
    sizes: list[int] = []

    def attach(sock: socket.socket, program: bpf.Block) -> None:
        sizes.append(len(program))
        if len(program) > 1200:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

    sock = packet.PacketSocket("lo", socket.if_nametoindex("lo"), 0x0806)
    try:
        monkeypatch.setattr(packet, "attach", attach)
        assert sock.set_addresses(v4(value * 7) for value in range(3000)) <= 1200
        first = len(sizes)
        assert first > 1
        sock.set_addresses(v4(value * 7) for value in range(3000))
        assert len(sizes) == first + 1  # what was learnt is kept
    finally:
        sock.close()


@pytest.mark.root
def test_other_errors_of_the_kernel_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = packet.PacketSocket("lo", socket.if_nametoindex("lo"), 0x0806)
    try:

        def attach(sock: socket.socket, program: bpf.Block) -> None:
            raise OSError(errno.EPERM, "no")

        monkeypatch.setattr(packet, "attach", attach)
        with pytest.raises(PermissionError):
            sock.set_addresses([v4(1)])
    finally:
        sock.close()
