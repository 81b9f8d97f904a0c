"""The decoder of membership against any octets, authentic or not; and membership behind it."""

from __future__ import annotations

import ipaddress
import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.membership import wire
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.messages import (
    Ack,
    Beat,
    Claim,
    Handover,
    Hello,
    Message,
    Nack,
    Ping,
    PingReq,
    Record,
    Released,
    Status,
)
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.membership.transport import NOT_SENT
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member

KEYS = Keyring.from_text("secret")
NAMES = st.sampled_from(["me", "you", "third", "node-4"])


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """A field of so many bits: its limits and half of it at least as often as anything between."""
    half = 1 << (bits - 1)
    return st.one_of(
        st.sampled_from([0, 1, half - 1, half, half + 1, 2 * half - 2, 2 * half - 1]), st.integers(0, 2 * half - 1)
    )


U16, U32, U64 = unsigned(16), unsigned(32), unsigned(64)


def macs(most: int) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")), max_size=most).map(tuple)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
PREFIXES = st.lists(
    st.one_of(
        st.builds(
            lambda ip, bits: str(ipaddress.ip_network((ip, bits), strict=False)),
            st.ip_addresses(v=4),
            st.integers(0, 32),
        ),
        st.builds(
            lambda ip, bits: str(ipaddress.ip_network((ip, bits), strict=False)),
            st.ip_addresses(v=6),
            st.integers(0, 128),
        ),
    ),
    max_size=wire.MAX_PREFIXES,
).map(tuple)
RECORDS = st.one_of([
    st.builds(
        Record, NAMES, st.sampled_from(Status), U32, U64, st.one_of(st.just(""), ADDRESSES), U16,
        st.booleans(), st.booleans(), macs(most), st.one_of(st.just(""), NAMES), prefixes,
    )
    for most, prefixes in ((wire.FIRST_MACS, st.none()), (wire.MAX_MACS, PREFIXES))
])  # fmt: skip
KEYS_OF_GROUPS = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), max_size=3).map(tuple)
#: One strategy per kind that the decoder knows, by the number of the kind: a new one must be added here.
WELL_FORMED: dict[int, st.SearchStrategy[Message]] = {
    1: RECORDS,
    2: st.builds(Ping, U32),
    3: st.builds(Ack, U32),
    4: st.builds(PingReq, U32, NAMES),
    5: st.builds(Nack, U32),
    6: st.builds(Beat, st.booleans()),
    7: st.builds(Hello, U64, U64, U32),
    8: st.builds(Claim, U32, KEYS_OF_GROUPS),
    9: st.builds(Released, KEYS_OF_GROUPS),
    10: st.builds(Handover, KEYS_OF_GROUPS),
}
BODIES = {
    kind: st.one_of(messages.map(wire.encode_message).map(lambda data: data[3:]), st.binary(max_size=40))
    for kind, messages in WELL_FORMED.items()
}


def test_every_kind_is_tried() -> None:
    assert WELL_FORMED.keys() == wire.READERS.keys()


@st.composite
def authentic(draw: st.DrawFn) -> bytes:
    """Authentic datagrams: of well-formed records, and of any bodies under known and unknown kinds."""
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from([*wire.READERS, 77]))
        body = draw(BODIES.get(kind, st.binary(max_size=30)))
        parts.append(bytes((kind,)) + len(body).to_bytes(2, "big") + body)
    sender = draw(NAMES)
    # Of the life that is admitted, mostly: all others are only challenged.
    boot, counter = draw(st.one_of(st.just(5), U64)), draw(st.one_of(st.integers(2, 200), U64))
    return wire.encode(sender, boot, counter, draw(U32), parts, "me", KEYS)


REASONS = ("", wire.NOT_OURS, wire.WRONG_VERSION, wire.TOO_LONG, wire.TRUNCATED, wire.MALFORMED, wire.NOT_AUTHENTIC)


def refusal(data: bytes, receiver: str = "me") -> str:
    """Why it is refused; "" if it is read."""
    try:
        wire.decode(data, receiver, KEYS)
    except wire.DecodeError as error:
        return error.reason
    return ""


@given(st.binary(max_size=1400))
def test_any_octets_give_a_datagram_or_decode_error(data: bytes) -> None:
    for candidate in (data, wire.MAGIC + data, wire.MAGIC + b"\1\1" + data):
        assert refusal(candidate) in REASONS


@given(st.binary(max_size=300))
def test_any_authentic_octets_give_a_datagram_or_decode_error(body: bytes) -> None:
    for fixed in (b"mS\1\1" + bytes(20) + b"\3you", b"mS\1\1" + bytes(20)):
        data = fixed + body
        assert refusal(data + KEYS.sign(b"\2me" + data)) in ("", wire.MALFORMED, wire.TRUNCATED)


@given(st.lists(RECORDS, max_size=4), st.lists(st.builds(Hello, U64, U64, U32), max_size=2))
def test_what_is_encoded_comes_back(records: list[Record], hellos: list[Hello]) -> None:
    messages: list[Message] = [*records, *hellos]
    data = wire.encode("you", 1, 2, 3, map(wire.encode_message, messages), "me", KEYS)
    assert wire.decode(data, "me", KEYS).messages == tuple(messages)


def asked(sent: list[bytes]) -> list[tuple[str, int]]:
    """(by which name, number) of what `sent` asks to be echoed."""
    found = []
    for name, data in itertools.product(("you", "third", "node-4"), sent):
        if not refusal(data, name):
            messages = wire.decode(data, name, KEYS).messages
            found += [(name, m.nonce) for m in messages if isinstance(m, Hello) and m.nonce]
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(authentic(), st.floats(0, 0.3)), max_size=12), U32, st.randoms(use_true_random=False))
def test_nothing_that_a_key_holder_says_breaks_a_member(
    script: list[tuple[bytes, float]], generation: int, rng: random.Random
) -> None:
    """Whatever arrives, the machines go on, tell no untruth about themselves, and stay bounded."""
    member = Membership("me", KEYS, rng=random.Random(rng.random()), now=0.0, address="192.0.2.9")
    owner = Ownership("me", 0.0)
    members = [Member("me", ("192.0.2.9",), alive=True), Member("you", ("192.0.2.8",), alive=True)]
    member.set(members, 0.0)
    addresses = tuple(AnnouncedAddress(ip, ("d/s",)) for ip in ("192.0.2.1", "2001:db8::1"))
    owner.replace([Layer2Group("192.0.2.1", addresses, ("me", "you", "third"))], 0.0)
    member.on_deadline(0.0)
    now, sent = 0.0, [data for data, _ in member.pending()]

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds
        if member.deadline() <= now:
            member.on_deadline(now)
        owner.follow(member, now)
        sent.extend(data for data, _ in member.pending())
        assert owner.owned().keys() <= {"192.0.2.1"}

    for data, delay in script:
        # Whoever holds the key can answer challenges, too: so get the sender admitted in half of the cases.
        if (nonces := asked(sent)) and rng.random() < 0.5:
            name, nonce = rng.choice(nonces)
            record = Record(name, Status.ALIVE, 1, 5, "192.0.2.8", 7946)
            said = map(wire.encode_message, (record, Hello(rng.getrandbits(60), nonce, 5)))
            member.receive(wire.encode(name, 5, 1, generation, said, "me", KEYS), ("192.0.2.8", 7946), now)
        member.receive(data, ("192.0.2.8", 7946), now)
        go_on(delay)
    assert member.view()["me"].name == "me"
    assert member.deadline() > now - 1
    owner.leave(now)
    member.leave(now)
    for _ in range(40):  # and what was adopted can be said to others, whatever changes then
        go_on(0.05)
    member.depart(now)
    go_on(0.0)
    assert all(len(data) <= wire.MAX_DATAGRAM for data in sent)
    assert not member.drops().get(NOT_SENT)
