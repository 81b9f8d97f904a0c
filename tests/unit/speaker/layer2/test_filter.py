"""Kernel filters, run by an interpreter of our own and loaded into the kernel."""

from __future__ import annotations

import ipaddress
import itertools
import math
import random
import socket
import time
from collections.abc import Callable, Iterable

import pytest

from metallb_speaker.announcer.edge import packet
from metallb_speaker.announcer.layer2 import arp, bpf, ndp
from metallb_speaker.announcer.layer2.filter import CALM, SNAP, FilterPlan, arp_program, exact_slices, ndp_program
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


# --- the plan -----------------------------------------------------------------------------------


def worked(plan: FilterPlan, now: float) -> bpf.Block:
    """The program due at `now`, however many steps it takes to make."""
    for _ in range(200):
        if (program := plan.program(now)) is not None:
            return program
    raise AssertionError("nothing is due")


def test_a_small_set_is_followed_exactly_and_at_once() -> None:
    plan = FilterPlan(1, 4)
    assert plan.program(1.0) is None
    for value in (5, 9):
        plan.add(v4(value), 1.0)
        assert plan.deadline() == 1.0
        program = plan.program(1.0)
        assert program == arp_program([v4(v) for v in (5, 9) if v <= value], 1)
        assert plan.deadline() == math.inf
    plan.remove(v4(5), 2.0)
    assert plan.program(2.0) == arp_program([v4(9)], 1)


@pytest.mark.parametrize("width", [4, 16])
def test_a_large_set_has_a_stand_in_until_it_is_calm(width: int) -> None:
    make, ask, generate = (v4, asks4, arp_program) if width == 4 else (v6, asks6, ndp_program)
    source = random.Random(width)
    plan, now, loaded, owned = FilterPlan(1, width), 0.0, bpf.DROP, set()
    for value in source.sample(range(1 << 32), 600):
        owned.add(make(value))
        plan.add(make(value), now)
        while (program := plan.program(now)) is not None:
            loaded = program
            cbpf.check(loaded)
        assert kept(loaded, ask(make(value)))
        now += 0.001
    assert len(loaded) < 200
    assert all(kept(loaded, ask(ip)) for ip in owned)
    assert now < plan.deadline() <= now + CALM
    exact = worked(plan, plan.deadline())
    assert exact == generate(owned, 1)
    assert plan.deadline() == math.inf
    # One more, between two that are known: what is loaded now does not let it through.
    more = make(sorted(int.from_bytes(ip[-4:], "big") for ip in owned)[300] + 1)
    plan.add(more, now + 10)
    loaded = plan.program(now + 10) or []
    assert kept(loaded, ask(more))
    assert len(loaded) < 200


def test_steady_change_does_not_keep_the_exact_program_away_for_ever() -> None:
    plan, exact, now = FilterPlan(1, 4), 0, 0.0
    for value in range(800):
        plan.add(v4(value * 1000), now)
        for _ in range(50):  # turns of the loop
            program = plan.program(now)
            exact += program is not None and len(program) > 300
            now += 0.001
    assert exact >= 5


def test_hundreds_at_once_are_all_let_through() -> None:
    """As when the sockets of an interface are opened anew."""
    plan, owned = FilterPlan(1, 4), [v4(value * 7) for value in range(400)]
    for ip in owned:
        plan.add(ip, 0.0)
    loaded = plan.program(0.0) or []
    assert all(kept(loaded, asks4(ip)) for ip in owned)


def test_one_that_comes_while_the_exact_program_is_made_is_let_through() -> None:
    plan, owned = FilterPlan(1, 4), [v4(value * 3) for value in range(1500)]
    for ip in owned:
        plan.add(ip, 0.0)
    plan.program(0.0)
    now, steps, loaded = CALM, 0, bpf.DROP
    while plan.program(now) is None and steps < 3:
        steps += 1
    assert steps == 3  # it is in the making
    plan.add(v4(5000 * 3), now)
    while plan.deadline() < math.inf:
        now = max(now, plan.deadline())
        if (program := plan.program(now)) is not None:
            loaded = program
            assert all(kept(loaded, asks4(ip)) for ip in (owned[0], owned[-1], v4(5000 * 3)))
    assert loaded == arp_program([*owned, v4(5000 * 3)], 1)
    # One that goes meanwhile: what is made lets it through until the next one.
    plan.remove(owned[7], now)
    now = plan.deadline()
    plan.program(now)
    plan.remove(owned[8], now)
    assert kept(worked(plan, now), asks4(owned[8]))
    assert worked(plan, plan.deadline()) == arp_program({*owned, v4(5000 * 3)} - {owned[7], owned[8]}, 1)
    assert plan.deadline() == math.inf


def test_no_step_of_a_large_program_is_long() -> None:
    """Counted in what a step does, since a machine may stop for a moment: of 20,000 addresses none is half the work."""
    values = sorted(v6(value) for value in random.Random(3).sample(range(1 << 32), 20000))
    steps, took = 0, []
    for _ in exact_slices(values, 16, 1, bpf.MAX_INSTRUCTIONS):
        took.append(time.thread_time())
        steps += 1
    spent = [after - before for before, after in itertools.pairwise(took)]
    assert steps > 40
    assert sorted(spent)[-3] < 0.3 * sum(spent)


def test_removals_wait_for_calm() -> None:
    plan = FilterPlan(1, 4)
    for value in range(300):
        plan.add(v4(value * 3), 0.0)
    plan.program(0.0)
    worked(plan, 1.0)
    plan.remove(v4(3), 5.0)
    assert plan.program(5.0) is None
    assert not kept(worked(plan, 5.0 + CALM), asks4(v4(3)))


def test_a_kernel_with_little_option_memory_gets_a_smaller_program() -> None:
    """Before Linux 6.7 a socket may hold 20 KiB, filter included: then 4,096 instructions are refused."""
    plan = FilterPlan(1, 4)
    for value in random.Random(2).sample(range(1 << 32), 3000):
        plan.add(v4(value), 0.0)
    now, tries = CALM, 0
    plan.program(0.0)
    program = worked(plan, now)
    while len(program) > 1200:
        assert plan.refused(len(program), now)
        program = worked(plan, now)
        tries += 1
    assert 1 <= tries <= 3
    assert len(program) > 300
    while plan.refused(64, now):
        pass
    assert plan.limit == 64
