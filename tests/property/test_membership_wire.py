"""The decoder of membership against any octets, authentic or not; and membership behind it."""

from __future__ import annotations

import ipaddress
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from metallb_speaker.announcer.membership import wire
from metallb_speaker.announcer.membership.keys import Keyring
from metallb_speaker.announcer.membership.messages import Hello, Message, Record, Status
from metallb_speaker.announcer.membership.swim import Membership
from metallb_speaker.announcer.ownership import Ownership
from metallb_speaker.desired import AnnouncedAddress, Layer2Group, Member

KEYS = Keyring.from_text("secret")
NAMES = st.sampled_from(["me", "you", "third", "node-4"])
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
MACS = st.lists(st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")), max_size=8).map(tuple)
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
RECORDS = st.builds(
    Record, NAMES, st.sampled_from(Status), U32, U64, st.one_of(st.just(""), ADDRESSES), st.integers(0, 65535),
    st.booleans(), st.booleans(), MACS, st.one_of(st.just(""), NAMES), st.one_of(st.none(), PREFIXES),
)  # fmt: skip
#: One strategy per kind that the decoder knows, by the number of the kind: a new one must be added here.
BODIES = {
    1: RECORDS.map(wire.encode_message).map(lambda data: data[3:]),
    **{kind: st.binary(max_size=40) for kind in wire.READERS if kind != 1},
}
KEYS_OF_GROUPS = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])


@st.composite
def authentic(draw: st.DrawFn) -> bytes:
    """Authentic datagrams: of well-formed records, and of any bodies under known and unknown kinds."""
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from([*wire.READERS, 77]))
        body = draw(BODIES.get(kind, st.binary(max_size=30)))
        parts.append(bytes((kind,)) + len(body).to_bytes(2, "big") + body)
    sender = draw(NAMES)
    return wire.encode(sender, draw(U64), draw(U64), draw(U32), parts, "me", KEYS)


REASONS = ("", wire.NOT_OURS, wire.WRONG_VERSION, wire.TOO_LONG, wire.TRUNCATED, wire.MALFORMED, wire.NOT_AUTHENTIC)


def refusal(data: bytes) -> str:
    """Why it is refused; "" if it is read."""
    try:
        wire.decode(data, "me", KEYS)
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


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(authentic(), st.floats(0, 0.3)), max_size=12), st.randoms(use_true_random=False))
def test_nothing_that_a_key_holder_says_breaks_a_member(script: list[tuple[bytes, float]], rng: random.Random) -> None:
    """Whatever arrives, the machines go on, tell no untruth about themselves, and stay bounded."""
    member = Membership("me", KEYS, rng=random.Random(rng.random()), now=0.0, address="192.0.2.9")
    owner = Ownership("me", 0.0)
    members = [Member("me", ("192.0.2.9",), alive=True), Member("you", ("192.0.2.8",), alive=True)]
    member.set(members, 0.0)
    owner.replace([Layer2Group("192.0.2.1", (AnnouncedAddress("192.0.2.1", ("d/s",)),), ("me", "you", "third"))], 0.0)
    now, nonces = 0.0, []
    for data, delay in script:
        now += delay
        # Whoever holds the key can answer challenges, too: so get the sender admitted in half of the cases.
        for sent, _ in member.pending():
            for name in ("you", "third", "node-4"):
                try:
                    said = wire.decode(sent, name, KEYS)
                except wire.DecodeError:
                    continue
                nonces += [(name, m.nonce) for m in said.messages if isinstance(m, Hello) and m.nonce]
        if nonces and rng.random() < 0.5:
            name, nonce = nonces.pop()
            hello = wire.encode_message(Hello(rng.getrandbits(60), nonce, 5))
            member.receive(wire.encode(name, 5, 1, 1, [hello], "me", KEYS), ("192.0.2.8", 7946), now)
        member.receive(data, ("192.0.2.8", 7946), now)
        if member.deadline() <= now:
            member.on_deadline(now)
        owner.follow(member, now)
        assert all(len(sent) <= wire.MAX_DATAGRAM for sent, _ in member.pending())
        assert owner.owned().keys() <= {"192.0.2.1"}
    assert member.view()["me"].name == "me"
    assert member.deadline() > now - 1
