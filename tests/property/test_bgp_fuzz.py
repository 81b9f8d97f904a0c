"""Any bytes give a value or the RFC's NOTIFICATION, in every decoder, and through a whole session."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_speaker.announcer.bgp.connection import Connection
from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.settings import Settings
from metallb_speaker.announcer.bgp.wire import update
from metallb_speaker.announcer.bgp.wire.capabilities import Capabilities, assemble, decode_tlvs, encode
from metallb_speaker.announcer.bgp.wire.errors import Code, NotificationError
from metallb_speaker.announcer.bgp.wire.framing import HEADER, MAX_EXTENDED, MAX_MESSAGE, Framer, MessageType, frame
from metallb_speaker.announcer.bgp.wire.messages import Notification, Open, RouteRefresh
from metallb_speaker.announcer.bgp.wire.prefix import Network, family_of, parse, prefix_of

DECODERS: dict[str, Callable[[bytes], object]] = {
    "open": Open.decode,
    "update": update.decode,
    "update, two-octet AS": lambda data: update.decode(data, four_octet=False),
    "notification": Notification.decode,
    "route refresh": RouteRefresh.decode,
    "capabilities": lambda data: assemble(decode_tlvs(data)),
    "framing": lambda data: Framer().feed(data),
}
CODES = {int(c) for c in Code}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_decode_or_give_a_code(name: str, data: bytes) -> None:
    code = 0
    try:
        DECODERS[name](data)
    except NotificationError as error:
        code = error.code
    assert code == 0 or code in CODES


def _settings() -> Settings:
    return Settings(
        "peer", 64512, 64513, ipaddress.ip_address("192.0.2.2"), ipaddress.IPv4Address("192.0.2.1"), hold_time=90
    )


MESSAGES = st.one_of(
    st.binary(max_size=64),
    st.builds(frame, st.sampled_from(list(MessageType)), st.binary(max_size=64)),
    st.just(Open(64513, 30, ipaddress.IPv4Address("192.0.2.2"), Capabilities(four_octet_as=64513)).encode()),
    st.just(frame(MessageType.KEEPALIVE)),
)


@given(st.lists(MESSAGES, max_size=12), st.lists(st.integers(1, 40), max_size=12))
def test_a_connection_survives_any_stream(parts: list[bytes], cuts: list[int]) -> None:
    connection = Connection(_settings(), 0.0, incoming=False, rng=random.Random(1))
    data, now = b"".join(parts), 0.0
    closed = 0
    for size in [*cuts, len(data) + 1]:
        piece, data = data[:size], data[size:]
        connection.receive(piece, now)
        closed += sum(type(e).__name__ == "Closed" for e in connection.events())
        out = connection.pending()
        connection.sent(len(out), now)
        now += 0.1
    assert closed == (connection.state is State.IDLE)


@given(st.sampled_from(list(MessageType)), st.integers(0, MAX_EXTENDED - HEADER), st.booleans())
def test_what_answers_a_long_message_is_no_longer_than_agreed(kind: MessageType, size: int, extended: bool) -> None:
    connection = Connection(_settings(), 0.0, incoming=False, rng=random.Random(1))
    theirs = Capabilities(families=("ipv4",), four_octet_as=64513, extended_message=extended)
    connection.receive(Open(64513, 30, ipaddress.IPv4Address("192.0.2.2"), theirs).encode(), 0.0)
    connection.receive(frame(MessageType.KEEPALIVE), 0.0)
    connection.receive(frame(kind, b"\1" * size), 0.1)
    judge = Framer()
    judge.maximum = MAX_EXTENDED if extended else MAX_MESSAGE
    judge.feed(connection.drain())


@given(st.binary(max_size=300), st.integers(1, 19))
def test_framing_does_not_depend_on_how_the_stream_is_cut(body: bytes, size: int) -> None:
    stream = frame(MessageType.NOTIFICATION, b"\6\2" + body) + frame(MessageType.KEEPALIVE)
    whole, pieces, out = Framer(), Framer(), []
    for i in range(0, len(stream), size):
        out += pieces.feed(stream[i : i + size])
    assert out == whole.feed(stream)


networks = st.one_of(
    st.builds(lambda a, p: ipaddress.ip_network((a, p), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda a, p: ipaddress.IPv6Network((a, p), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
)


@given(st.lists(networks, min_size=1, max_size=50))
def test_withdrawals_round_trip(prefixes: list[Network]) -> None:
    for family in ("ipv4", "ipv6"):
        chosen = [p for p in prefixes if family_of(prefix_of(p)) == family]
        octets = [prefix_of(p) for p in chosen]
        assert [parse(str(p)) for p in chosen] == octets
        got = [n for raw in update.withdraw(family, octets) for n in update.decode(raw[19:]).withdrawn]  # type: ignore[arg-type]
        assert got == chosen


@given(st.lists(st.sampled_from(["ipv4", "ipv6"]), unique=True), st.integers(0, 2**32 - 1), st.booleans())
def test_capabilities_round_trip(families: list[str], asn: int, refresh: bool) -> None:
    c = Capabilities(families=tuple(families), four_octet_as=asn, route_refresh=refresh)  # type: ignore[arg-type]
    assert assemble(decode_tlvs(encode(c))) == c
