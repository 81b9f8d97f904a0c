"""The datagram format: every message there and back, and everything that must not be believed."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace

import pytest

from metallb_speaker.announcer.membership import wire
from metallb_speaker.announcer.membership.keys import MAX_KEYS, NO_KEYS, BadKeyring, Keyring
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
from metallb_speaker.announcer.membership.wire import DecodeError

KEYS = Keyring.from_text("NnHOnCTHYSVWfOLxOfuXyw")
RECORD = Record("node-2.example", Status.ALIVE, 7, 1 << 60, "192.0.2.7", 7946, True, False, ("02:00:00:00:00:01",))
MESSAGES: list[Message] = [
    RECORD,
    Record("n", Status.SUSPECT, 0, 1, "2001:db8::7", 1, leaving=True, accuser="a.b-c_d"),
    Record(
        "x" * 253, Status.LEFT, (1 << 32) - 1, (1 << 64) - 1, macs=tuple(f"02:00:00:00:00:{i:02x}" for i in range(8))
    ),
    Record("p", Status.ALIVE, 1, 2, prefixes=()),
    Record("p", Status.ALIVE, 1, 2, prefixes=("0.0.0.0/0", "10.0.0.0/9", "192.0.2.128/25", "2001:db8::/61", "::/0")),
    Record("p", Status.ALIVE, 1, 2, prefixes=tuple(f"2001:db8::{i:x}/128" for i in range(1, wire.MAX_PREFIXES + 1))),
    Ping(0),
    Ack((1 << 32) - 1),
    PingReq(5, "node-3"),
    Nack(9),
    Beat(hearing=True),
    Beat(hearing=False),
    Hello(1, 2, 3),
    Claim(4, ("192.0.2.1", "2001:db8::1")),
    Claim(4, ()),
    Released(("192.0.2.1",)),
    Handover(("2001:db8::ffff",)),
]


def packed(*messages: Message, keys: Keyring = KEYS, receiver: str = "me", counter: int = 3) -> bytes:
    return wire.encode("you", 11, counter, 12, map(wire.encode_message, messages), receiver, keys)


def reason(data: bytes, receiver: str = "me", keys: Keyring = KEYS) -> str:
    with pytest.raises(DecodeError) as caught:
        wire.decode(data, receiver, keys)
    return caught.value.reason


def signed(body: bytes, keys: Keyring = KEYS) -> bytes:
    """Whatever the octets, authentic."""
    return body + keys.sign(b"\2me" + body)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_each_message_comes_back(message: Message) -> None:
    datagram = wire.decode(packed(message), "me", KEYS)
    assert (datagram.sender, datagram.boot, datagram.counter, datagram.generation) == ("you", 11, 3, 12)
    assert datagram.messages == (message,)


def test_the_layout_octet_by_octet() -> None:
    """Written out by hand, so that a change of the format cannot pass unnoticed: it needs a new version."""
    head = b"mS\x01\x01" + struct.pack("!QQI", 11, 3, 12) + b"\3you"
    key = hmac.new(
        b"metallb.io speaker membership, datagram authentication, 1", b"NnHOnCTHYSVWfOLxOfuXyw", hashlib.sha256
    )
    record = (
        b"\x0enode-2.example"
        + struct.pack("!BBIQHB", 0, 1, 7, 1 << 60, 7946, 4)
        + bytes([192, 0, 2, 7])
        + b"\x01"
        + bytes.fromhex("020000000001")
        + b"\x00"
    )
    body = head + b"\x01" + struct.pack("!H", len(record)) + record + b"\x02\x00\x04\x00\x00\x00\x09"
    tag = hmac.new(key.digest(), b"\2me" + body, hashlib.sha256).digest()[:16]
    assert packed(RECORD, Ping(9)) == body + tag


def test_prefixes_come_at_the_end_of_a_record_where_an_older_version_looks_no_further() -> None:
    plain, said = (
        Record("p", Status.ALIVE, 1, 2),
        Record("p", Status.ALIVE, 1, 2, prefixes=("192.0.2.128/25", "fd09::/16")),
    )
    encoded = wire.encode_message(said)
    assert encoded[3:] == wire.encode_message(plain)[3:] + b"\x02" + b"\x04\x19\xc0\x00\x02\x80" + b"\x10\x10\xfd\x09"
    assert wire.decode(packed(plain), "me", KEYS).messages == (plain,), "and of an older one nothing is known"
    assert plain.prefixes is None


def test_more_macs_than_an_older_version_reads_come_behind_the_prefixes() -> None:
    macs = tuple(f"02:00:00:00:00:{n:02x}" for n in range(wire.MAX_MACS + 1))
    few, many = (
        Record("p", Status.ALIVE, 1, 2, macs=macs[:count], prefixes=("192.0.2.0/24",))
        for count in (wire.FIRST_MACS, 10)
    )
    encoded = wire.encode_message(many)
    assert encoded[3:] == wire.encode_message(few)[3:] + b"\x02" + bytes.fromhex("020000000008" + "020000000009")
    assert wire.decode(packed(many), "me", KEYS).messages == (many,)
    most = Record("p", Status.ALIVE, 1, 2, macs=macs, prefixes=())
    assert wire.decode(packed(most), "me", KEYS).messages == (replace(most, macs=macs[: wire.MAX_MACS]),)
    silent = replace(most, prefixes=None)
    assert wire.decode(packed(silent), "me", KEYS).messages == (replace(silent, macs=macs[: wire.FIRST_MACS]),)


def test_the_longest_record_fits_into_a_datagram() -> None:
    longest = Record(
        "x" * 253, Status.SUSPECT, 1, 1, "2001:db8::1", 1, macs=("02:00:00:00:00:01",) * wire.MAX_MACS,
        accuser="y" * 253, prefixes=tuple(f"2001:db8::{i:x}/128" for i in range(wire.MAX_PREFIXES)),
    )  # fmt: skip
    assert len(wire.encode_message(longest)) <= wire.room("z" * 253)


def test_all_messages_fit_and_one_more_octet_does_not() -> None:
    free = wire.room("you")
    filler = wire.encode_message(Claim(1, ("192.0.2.1",) * ((free - 7) // 5)))
    data = wire.encode("you", 1, 1, 1, [filler], "me", KEYS)
    assert len(data) <= wire.MAX_DATAGRAM < 1400
    with pytest.raises(ValueError, match="octets"):
        wire.encode("you", 1, 1, 1, [filler, filler], "me", KEYS)
    assert reason(data + bytes(wire.MAX_DATAGRAM)) == wire.TOO_LONG


def test_unknown_kinds_are_skipped_and_longer_bodies_are_read() -> None:
    """What a later version may add."""
    ping = wire.encode_message(Ping(1))
    longer = b"\x06\x00\x05" + b"\x01more"
    data = wire.encode("you", 1, 1, 1, [b"\xf0\x00\x03abc", ping, longer], "me", KEYS)
    assert wire.decode(data, "me", KEYS).messages == (Ping(1), Beat(hearing=True))


@pytest.mark.parametrize(("version", "oldest", "read"), [(1, 1, True), (2, 1, True), (2, 2, False), (0, 0, False)])
def test_versions(version: int, oldest: int, read: bool) -> None:
    body = b"mS" + bytes((version, oldest)) + struct.pack("!QQI", 1, 1, 1) + b"\3you"
    if read:
        assert wire.decode(signed(body), "me", KEYS).sender == "you"
    else:
        assert reason(signed(body)) == wire.WRONG_VERSION


def test_authenticity() -> None:
    data = packed(Ping(1))
    assert reason(data, receiver="somebody-else") == wire.NOT_AUTHENTIC
    assert reason(data, keys=Keyring.from_text("other")) == wire.NOT_AUTHENTIC
    assert reason(data, keys=NO_KEYS) == wire.NOT_AUTHENTIC
    assert reason(data[:-1] + bytes((data[-1] ^ 1,))) == wire.NOT_AUTHENTIC
    assert reason(b"\x0d\x2a memberlist of the original") == wire.NOT_OURS
    assert reason(b"") == wire.NOT_OURS
    assert reason(data[:30]) == wire.TRUNCATED


@pytest.mark.parametrize(
    "body",
    [
        b"",  # no name
        b"\0",  # an empty one
        b"\5you",  # shorter than it says
        b"\3y/u",  # an octet that no node name has
        b"\3you\x02",  # a message cut in its head
        b"\3you\x02\x00\x09\x00",  # and in its body
        b"\3you\x02\x00\x03\x00\x00\x00",  # a Ping of 3 octets
        b"\3you\x09\x00\x02\x05\x00",  # a key of 5 octets
        b"\3you\x09\x00\x01\x00",  # an empty key
        b"\3you\x01\x00\x02\x01n",  # a record that ends after its name
        b"\3you\x01\x00\x15\x01n" + struct.pack("!BBIQHB", 9, 0, 0, 0, 0, 0) + b"\0\0",  # a status beyond the last
        b"\3you\x01\x00\x15\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 5) + b"\0\0",  # an address of 5 octets
        b"\3you\x01\x00\x15\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\xff\0",  # 255 MAC addresses
        b"\3you\x01\x00\x16\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\0\0\xff",  # 255 prefixes
        b"\3you\x01\x00\x18\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\0\0\1\4\x21",  # of 33 bits
        b"\3you\x01\x00\x18\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\0\0\1\5\0",  # of 5 octets
        b"\3you\x01\x00\x19\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\0\0\1\4\1\xff",  # bits behind
        b"\3you\x01\x00\x18\x01n" + struct.pack("!BBIQHB", 0, 0, 0, 0, 0, 0) + b"\0\0\1\4\1",  # cut
    ],
)
def test_authentic_but_malformed(body: bytes) -> None:
    fixed = b"mS\x01\x01" + struct.pack("!QQI", 1, 1, 1)
    assert reason(signed(fixed + body)) in (wire.MALFORMED, wire.TRUNCATED)


def test_key_rings() -> None:
    assert not Keyring.from_text("")
    assert not Keyring.from_text(" , ")
    both = Keyring.from_text("new, old\n")
    assert len(both.keys) == 2 == MAX_KEYS
    assert wire.decode(packed(Ping(1), keys=Keyring.from_text("old")), "me", both).messages == (Ping(1),)
    assert wire.decode(packed(Ping(1), keys=both), "me", Keyring.from_text("new")).messages == (Ping(1),)
    assert reason(packed(Ping(1), keys=both), keys=Keyring.from_text("old")) == wire.NOT_AUTHENTIC
    with pytest.raises(BadKeyring, match="3 keys"):
        Keyring.from_text("a,b,c")
    assert "new" not in repr(both)
    assert repr(both.keys[0]) not in repr(both)
