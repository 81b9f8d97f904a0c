"""Any octets: decoders return or raise their own error, ports answer only what is right."""

from __future__ import annotations

import ipaddress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.layer2 import arp, bpf, ndp, rtnetlink
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.filter import arp_program, ndp_program
from metallb_speaker.announcer.layer2.responder import Heard, Port
from tests.integration.layer2_table import ARP_ROWS, NDP_ROWS, OWNED4, OWNED6, Wire
from tests.unit.speaker.layer2 import cbpf

WIRE = Wire(client="02:00:00:00:00:01", ip4="10.9.0.2", ip6="fd09::2", node="02:00:00:00:00:02")
IP4, IP6 = ipaddress.ip_address(OWNED4).packed, ipaddress.ip_address(OWNED6).packed
MAC = eth.mac_bytes(WIRE.node)
FRAMES = [row.frame(WIRE) for row in ARP_ROWS + NDP_ROWS]
ARP_FILTER, NDP_FILTER = arp_program([IP4], 1), ndp_program([IP6], 1)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A row of the table with octets changed, cut, or added."""
    frame = bytearray(draw(st.sampled_from(FRAMES)))
    for _ in range(draw(st.integers(0, 4))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del frame[draw(st.integers(0, len(frame))) :]
    return bytes(frame) + draw(st.binary(max_size=20))


frames = st.one_of(st.binary(max_size=200), mutated())


def new_port(heard: list[Heard]) -> Port:
    port = Port(MAC, heard.append)
    port.add(IP4, OWNED4).active = True
    port.add(IP6, OWNED6).active = True
    return port


@given(frames)
@settings(max_examples=1500, deadline=None)
def test_decoders_return_or_raise_their_own_error(frame: bytes) -> None:
    for decode in (arp.decode, ndp.decode):
        reason = ""
        try:
            decode(frame)
        except eth.DecodeError as error:
            reason = error.reason
        assert reason in ("", *eth.REASONS)


@given(frames)
@settings(max_examples=2500, deadline=None)
def test_an_answer_leaves_only_for_a_valid_question(frame: bytes) -> None:
    """Whatever comes in: one answer for our own address to one host (or, to DAD, all), or one named reason."""
    heard: list[Heard] = []
    port = new_port(heard)
    answer = port.answer_arp(frame)
    if answer is not None:
        question, message = arp.decode(frame), arp.decode(answer)
        assert question.op == arp.REQUEST
        assert question.tpa == IP4
        assert (message.src, message.sha, message.spa) == (MAC, MAC, IP4)
        assert message.dst == question.sha
        assert eth.is_host(message.dst)
    else:
        assert sum(port.drops.values()) == 1
        assert set(port.drops) <= set(eth.REASONS)
    port.drops.clear()
    answer = port.answer_ndp(frame)
    if answer is not None:
        asked, told = ndp.decode(frame), ndp.decode(answer)
        assert asked.kind == ndp.SOLICITATION
        assert asked.target == IP6
        assert (told.src, told.target, told.link_layer) == (MAC, IP6, MAC)
        assert told.destination == (ndp.ALL_NODES if asked.is_dad else asked.source)
        assert bool(told.flags & ndp.SOLICITED) is not asked.is_dad
    else:
        assert sum(port.drops.values()) == 1
        assert set(port.drops) <= set(eth.REASONS)


#: A request for somebody else's address with ours as its sender: neither filter nor port takes it for a claim.
ASKS_FOR_ANOTHER = bytes.fromhex("010000000000000000000000080600010800060400010000000000010a09006400000000000000000000")


@given(frames)
@example(ASKS_FOR_ANOTHER)
@settings(max_examples=1500, deadline=None)
def test_the_filter_never_refuses_what_would_be_answered(frame: bytes) -> None:
    """Nor a claim that must be heard: what the machine would act on, the kernel lets through."""
    heard: list[Heard] = []
    port = new_port(heard)
    for answer, program in ((port.answer_arp, ARP_FILTER), (port.answer_ndp, NDP_FILTER)):
        heard.clear()
        if answer(frame) is not None or heard:
            assert cbpf.run(program, frame)[0] >= len(frame)


@given(
    st.sets(st.binary(min_size=4, max_size=4), max_size=60), st.lists(st.binary(min_size=4, max_size=4), max_size=30)
)
@settings(max_examples=300, deadline=None)
def test_arp_filters_are_exact(owned: set[bytes], others: list[bytes]) -> None:
    program = arp_program(owned, 1)
    cbpf.check(program)
    for ip in [*owned, *others]:
        assert (cbpf.run(program, arp.request(MAC, IP4, ip))[0] > 0) is (ip in owned)


@given(
    st.sets(st.binary(min_size=16, max_size=16), max_size=60),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 255)), max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_ndp_filters_are_exact(owned: set[bytes], changes: list[tuple[int, int]]) -> None:
    program = ndp_program(owned, 1)
    cbpf.check(program)
    near = {bytes(value if i == at else o for i, o in enumerate(ip)) for ip in owned for at, value in changes}
    for ip in owned | near:
        assert (cbpf.run(program, ndp.probe(MAC, IP6, ip))[0] > 0) is (ip in owned)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 40)), min_size=1, max_size=80), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_the_size_of_a_search_is_known_beforehand(starts: list[tuple[int, int]], leaf: int) -> None:
    intervals: list[tuple[int, int]] = []
    for first, length in sorted(starts):
        if not intervals or first > intervals[-1][1] + 1:
            intervals.append((first, min(first + length, 2**32 - 1)))
    wide = sum(first != last for first, last in intervals)
    assert len(bpf.search(intervals, 1, leaf)) == bpf.size(len(intervals), wide, leaf)


@given(st.lists(st.binary(max_size=300), max_size=4))
@settings(max_examples=500, deadline=None)
def test_netlink_is_never_believed_too_much(datagrams: list[bytes]) -> None:
    dump = rtnetlink.Dump(1)
    dump.request()
    for data in datagrams:
        dump.receive(data)
    dump.snapshot()


@given(st.integers(16, 30), st.binary(max_size=200), st.integers(0, 65535))
@settings(max_examples=1000, deadline=None)
def test_netlink_messages_of_any_content(kind: int, body: bytes, flags: int) -> None:
    dump = rtnetlink.Dump(1)
    assert dump.request() is not None
    header = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + flags.to_bytes(2, "little")
    dump.receive(header + (2).to_bytes(4, "little") + bytes(4) + body)
    for link in dump.snapshot().links:
        assert isinstance(link.name, str)
