"""Echo packets as octets, judged by scapy; and what the kernel's neighbour table says."""

from __future__ import annotations

import ipaddress
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from metallb_speaker.announcer.bfd.echo import LENGTH, Echo, discriminator_of
from metallb_speaker.announcer.edge import echo


@pytest.mark.parametrize("own", ["192.0.2.1", "2001:db8::1"])
def test_scapy_agrees_with_every_checksum(own: str) -> None:
    made = echo.packet(ipaddress.ip_address(own), b"sixteen octets!!" + b"odd")
    seen = IP(made) if "." in own else IPv6(made)
    assert (seen.src, seen.dst) == (own, own)
    assert (seen.ttl if "." in own else seen.hlim) == 255
    assert (seen[UDP].sport, seen[UDP].dport) == (3785, 3785)
    again = seen.copy()
    del again[UDP].chksum
    if "." in own:
        del again.chksum
    assert bytes(again) == made
    assert echo.payload_of(made, 4 if "." in own else 6) == b"sixteen octets!!odd"


@given(st.binary(max_size=100), st.sampled_from([4, 6]))
def test_any_octets_from_the_wire_are_taken(data: bytes, version: int) -> None:
    payload = echo.payload_of(data, version)
    machine = Echo(7, random.Random(1))
    if discriminator_of(payload) == 7:
        assert not machine.returned(payload, 0.0)
    assert len(payload) < LENGTH or discriminator_of(payload) >= 0
    assert isinstance(echo.parse_neighbor(data), bytes)


def neighbor(state: int) -> bytes:
    attributes = struct.pack("=HH4s", 8, 1, bytes((192, 0, 2, 2))) + struct.pack("=HH6sxx", 10, 2, b"\2\0\0\0\0\1")
    body = struct.pack("=BxxxiHBB", 2, 3, state, 0, 1) + attributes
    return struct.pack("=IHHII", 16 + len(body), 28, 0, 1, 0) + body


def test_only_a_valid_entry_gives_a_link_address() -> None:
    assert echo.parse_neighbor(neighbor(0x02)) == b"\2\0\0\0\0\1"  # REACHABLE
    assert echo.parse_neighbor(neighbor(0x04)) == b"\2\0\0\0\0\1"  # STALE
    assert echo.parse_neighbor(neighbor(0x20)) == b""  # FAILED


def test_forwarding_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "ipv4/conf/eth0").mkdir(parents=True)
    (tmp_path / "ipv4/conf/eth0/forwarding").write_text("1\n")
    assert echo.forwards(4, "eth0", tmp_path)
    assert not echo.forwards(6, "eth0", tmp_path)
