"""The control packet (RFC 5880 section 4.1), with scapy as the second opinion, and against any octets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.bfd import BFD

from metallb_speaker.announcer.bfd.wire import DecodeError, Packet, State


def test_scapy_reads_ours_and_we_read_scapys() -> None:
    ours = Packet(State.UP, 1, 3, 0x01020304, 0x0A0B0C0D, 300_000, 250_000, 50_000, poll=True)
    seen = BFD(ours.encode())
    assert (seen.version, seen.diag, seen.sta, seen.detect_mult, seen.len) == (1, 1, 3, 3, 24)
    assert (seen.my_discriminator, seen.your_discriminator) == (0x01020304, 0x0A0B0C0D)
    assert (seen.min_tx_interval, seen.min_rx_interval, seen.echo_rx_interval) == (300_000, 250_000, 50_000)
    assert seen.flags.P
    theirs = bytes(
        BFD(sta=1, detect_mult=5, my_discriminator=9, your_discriminator=0, min_tx_interval=7, min_rx_interval=8)
    )
    assert Packet.decode(theirs) == Packet(State.DOWN, 0, 5, 9, 0, 7, 8, seen_echo(theirs))


def seen_echo(raw: bytes) -> int:
    return int.from_bytes(raw[20:24])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: 0x40}, "version"),
        ({3: 23}, "length"),
        ({3: 25}, "length"),
        ({1: 0xC4}, "authenticated"),
        ({2: 0}, "multiplier"),
        ({1: 0xC1}, "multipoint"),
        ({4: 0, 5: 0, 6: 0, 7: 0}, "my discriminator"),
        ({8: 0, 9: 0, 10: 0, 11: 0}, "your discriminator"),
    ],
)
def test_bad_packets_are_dropped_by_name(change: dict[int, int], reason: str) -> None:
    raw = bytearray(Packet(State.UP, 0, 3, 0x01010101, 0x02020202, 1, 1).encode())
    for position, value in change.items():
        raw[position] = value
    with pytest.raises(DecodeError, match=reason):
        Packet.decode(bytes(raw))


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_say_why_not(data: bytes) -> None:
    try:
        packet = Packet.decode(data)
    except DecodeError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right, neither may be silent
    else:
        assert packet.encode()[:4] == bytes((data[0], data[1], data[2], 24))
