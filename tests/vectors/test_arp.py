"""ARP against scapy, and against octets captured from Linux."""

from __future__ import annotations

import pytest
from scapy.layers.l2 import ARP, Ether

from metallb_speaker.announcer.layer2 import arp
from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2.frames import ArpAnswer

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
IP, THEIRS = "192.0.2.10", "192.0.2.20"


def octets(ip: str) -> bytes:
    return bytes(int(part) for part in ip.split("."))


MESSAGES = [
    arp.Arp(eth.BROADCAST, eth.mac_bytes(MAC), 1, eth.mac_bytes(MAC), octets(IP), eth.ZERO_MAC, octets(THEIRS)),
    arp.Arp(
        eth.mac_bytes(OTHER),
        eth.mac_bytes(MAC),
        2,
        eth.mac_bytes(MAC),
        octets(IP),
        eth.mac_bytes(OTHER),
        octets(THEIRS),
    ),
    arp.Arp(eth.BROADCAST, eth.mac_bytes(OTHER), 1, eth.mac_bytes(MAC), bytes(4), eth.ZERO_MAC, octets(IP)),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_scapy_reads_what_we_write(message: arp.Arp) -> None:
    packet = Ether(message.encode())
    assert (packet.dst, packet.src, packet.type) == (eth.mac_text(message.dst), eth.mac_text(message.src), 0x0806)
    read = packet[ARP]
    assert (read.hwtype, read.ptype, read.hwlen, read.plen, read.op) == (1, 0x0800, 6, 4, message.op)
    assert (read.hwsrc, read.hwdst) == (eth.mac_text(message.sha), eth.mac_text(message.tha))
    assert (octets(read.psrc), octets(read.pdst)) == (message.spa, message.tpa)


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("padding", [0, 18, 1000])
def test_we_read_what_scapy_writes(message: arp.Arp, padding: int) -> None:
    def text(ip: bytes) -> str:
        return ".".join(str(octet) for octet in ip)

    frame = Ether(dst=eth.mac_text(message.dst), src=eth.mac_text(message.src)) / ARP(
        op=message.op,
        hwsrc=eth.mac_text(message.sha),
        psrc=text(message.spa),
        hwdst=eth.mac_text(message.tha),
        pdst=text(message.tpa),
    )
    assert arp.decode(bytes(frame) + bytes(padding)) == message


# Captured on veth from Linux 6.18: 10.9.0.1 asks for 10.9.0.2, and the kernel that has it answers.
LINUX_REQUEST = bytes.fromhex("ffffffffffff4e4aeea24d8b080600010800060400014e4aeea24d8b0a0900010000000000000a090002")
LINUX_REPLY = bytes.fromhex("4e4aeea24d8b8ac4995250ee080600010800060400028ac4995250ee0a0900024e4aeea24d8b0a090001")


def test_our_answer_is_the_kernels() -> None:
    """Octet for octet what Linux answers for its own address."""
    answer = ArpAnswer(bytes.fromhex("8ac4995250ee"), octets("10.9.0.2"), "10.9.0.2")
    assert answer.reply(LINUX_REQUEST) == LINUX_REPLY
    assert arp.decode(LINUX_REPLY).encode() == LINUX_REPLY
    assert arp.request(bytes.fromhex("4e4aeea24d8b"), octets("10.9.0.1"), octets("10.9.0.2")) == LINUX_REQUEST


def test_announcements_in_both_forms() -> None:
    """RFC 5227 section 2.3: sender and target protocol address are the same."""
    request, reply = (Ether(frame) for frame in arp.announcements(eth.mac_bytes(MAC), octets(IP)))
    for packet, op in ((request, 1), (reply, 2)):
        assert (packet.dst, packet[ARP].op, packet[ARP].psrc, packet[ARP].pdst, packet[ARP].hwsrc) == (
            "ff:ff:ff:ff:ff:ff", op, IP, IP, MAC,
        )  # fmt: skip
        assert arp.decode(bytes(packet)).is_gratuitous


def test_a_probe_has_no_sender_address() -> None:
    """RFC 5227 section 2.1.1."""
    packet = Ether(arp.probe(eth.mac_bytes(MAC), octets(IP)))
    assert (packet[ARP].psrc, packet[ARP].hwdst, packet[ARP].pdst) == ("0.0.0.0", "00:00:00:00:00:00", IP)
    message = arp.decode(bytes(packet))
    assert message.is_probe
    assert not message.is_gratuitous


@pytest.mark.parametrize("text", ["02:00:00:00:00", "02:00:00:00:00:01:02", "zz:00:00:00:00:01", ""])
def test_text_that_is_no_mac_address(text: str) -> None:
    with pytest.raises(ValueError):
        eth.mac_bytes(text)
