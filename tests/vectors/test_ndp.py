"""Neighbor discovery against scapy, checksums included."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.utils6 import in6_getnsma, in6_getnsmac

from metallb_speaker.announcer.layer2 import ethernet as eth
from metallb_speaker.announcer.layer2 import ndp
from metallb_speaker.announcer.layer2.frames import NdpAnswer
from metallb_speaker.announcer.layer2.responder import Port

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


# Captured on veth from Linux 6.18: fd09::1 asks for fd09::2, the kernel that has it answers; and one that
# checks a link-local address of its own, with a nonce (RFC 7527).
LINUX_SOLICITATION = bytes.fromhex(
    "3333ff0000024e4aeea24d8b86dd6000000000203afffd090000000000000000000000000001ff0200000000000000000001ff000002"
    "8700f50d00000000fd09000000000000000000000000000201014e4aeea24d8b"
)
LINUX_ADVERTISEMENT = bytes.fromhex(
    "4e4aeea24d8b8ac4995250ee86dd6000000000203afffd090000000000000000000000000002fd090000000000000000000000000001"
    "8800a97b60000000fd09000000000000000000000000000202018ac4995250ee"
)
LINUX_DAD = bytes.fromhex(
    "3333ff5250ee8ac4995250ee86dd6000000000203aff00000000000000000000000000000000ff0200000000000000000001ff5250ee"
    "8700580e00000000fe8000000000000088c499fffe5250ee0e012c39372eef62"
)


def test_our_answer_is_the_kernels() -> None:
    """Octet for octet what Linux answers for its own address."""
    port = Port(bytes.fromhex("8ac4995250ee"))
    port.add(octets("fd09::2"), "fd09::2").active = True
    assert port.answer_ndp(LINUX_SOLICITATION) == LINUX_ADVERTISEMENT
    for frame in (LINUX_SOLICITATION, LINUX_ADVERTISEMENT):
        assert ndp.decode(frame).encode() == frame


def test_the_kernels_own_check_is_answered() -> None:
    ip = octets("fe80::88c4:99ff:fe52:50ee")
    assert ndp.decode(LINUX_DAD).is_dad
    port = Port(eth.mac_bytes(MAC))
    port.add(ip, "fe80::88c4:99ff:fe52:50ee").active = True
    assert port.answer_ndp(LINUX_DAD) == ndp.announcement(eth.mac_bytes(MAC), ip)


def octets(ip: str) -> bytes:
    return ipaddress.IPv6Address(ip).packed


@pytest.mark.parametrize("target", ["fd09::100", "2001:db8::ff:fffe", "fe80::1:2:3:4"])
@pytest.mark.parametrize("source", ["fe80::2", "2001:db8::ffff:ffff:ffff:ffff", "fd09::1"])
def test_solicitation(target: str, source: str) -> None:
    group = ndp.solicited_node(octets(target))
    ours = ndp.Neighbor(
        ndp.multicast_mac(group), eth.mac_bytes(MAC), octets(source), group, 135, octets(target), 0, eth.mac_bytes(MAC)
    )
    theirs = (
        Ether(dst=eth.mac_text(ndp.multicast_mac(group)), src=MAC)
        / IPv6(src=source, dst=str(ipaddress.IPv6Address(group)), hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
    )
    assert ours.encode() == bytes(theirs)
    assert ndp.decode(bytes(theirs)) == ours


@pytest.mark.parametrize("flags", [0, ndp.OVERRIDE, ndp.SOLICITED | ndp.OVERRIDE, 0xE0])
@pytest.mark.parametrize("link_layer", [MAC, ""])
def test_advertisement(flags: int, link_layer: str) -> None:
    mac = eth.mac_bytes(link_layer) if link_layer else b""
    ip, asker = octets("fd09::100"), octets("fd09::2")
    ours = ndp.Neighbor(eth.mac_bytes(OTHER), eth.mac_bytes(MAC), ip, asker, ndp.ADVERTISEMENT, ip, flags, mac)
    theirs = (
        Ether(dst=OTHER, src=MAC)
        / IPv6(src="fd09::100", dst="fd09::2", hlim=255)
        / ICMPv6ND_NA(tgt="fd09::100", R=flags >> 7 & 1, S=flags >> 6 & 1, O=flags >> 5 & 1)
    )
    if link_layer:
        theirs /= ICMPv6NDOptDstLLAddr(lladdr=link_layer)
    assert ours.encode() == bytes(theirs)
    assert ndp.decode(bytes(theirs)) == ours


@pytest.mark.parametrize("asker", ["fe80::2", "2001:db8::ffff:ffff:ffff:ffff", "fd09::ffff", "::1:0:0:0", "2001:db8::"])
@pytest.mark.parametrize("ip", ["fd09::100", "2001:db8::ffff:ffff", "fd00::"])
def test_the_prepared_answer_has_the_right_checksum(ip: str, asker: str) -> None:
    """The template's sum plus the asker's address is what summing everything anew gives."""
    answer = NdpAnswer(eth.mac_bytes(MAC), octets(ip), ip).reply(eth.mac_bytes(OTHER), octets(asker))
    expected = (
        Ether(dst=OTHER, src=MAC)
        / IPv6(src=ip, dst=asker, hlim=255)
        / ICMPv6ND_NA(tgt=ip, R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    )
    assert answer == bytes(expected)


def test_the_answer_to_duplicate_address_detection() -> None:
    """To all nodes, S 0, O 1 (RFC 4861 section 7.2.4)."""
    answer = NdpAnswer(eth.mac_bytes(MAC), octets("fd09::100"), "fd09::100").dad_reply()
    expected = (
        Ether(dst="33:33:00:00:00:01", src=MAC)
        / IPv6(src="fd09::100", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt="fd09::100", R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=MAC)
    )
    assert answer == bytes(expected)
    assert ndp.announcement(eth.mac_bytes(MAC), octets("fd09::100")) == bytes(expected)


@pytest.mark.parametrize("ip", ["fd09::100", "2001:db8::ffff:ffff", "fe80::1"])
def test_groups(ip: str) -> None:
    group = ndp.solicited_node(octets(ip))
    assert group == in6_getnsma(octets(ip))
    assert eth.mac_text(ndp.multicast_mac(group)) == in6_getnsmac(group)


def test_link_local_address() -> None:
    """RFC 4291 appendix A: 34-56-78-9A-BC-DE gives 3656:78FF:FE9A:BCDE."""
    assert ndp.link_local(eth.mac_bytes("34:56:78:9a:bc:de")) == octets("fe80::3656:78ff:fe9a:bcde")


def test_sums_that_are_all_ones() -> None:
    """One's complement has two zeros: a checksum that comes out as zero is sent as 0xffff, and read as either."""
    source, destination = octets("::"), octets("::")
    payload = bytes.fromhex("8800") + b"\0\0" + bytes(20)
    value = ndp.checksum(source, destination, payload)
    assert ndp.checksum_ok(source, destination, payload[:2] + value.to_bytes(2, "big") + payload[4:])
    fill = 0xFFFF - (0x8800 + len(payload) + ndp.ICMPV6)
    zero = payload[:4] + fill.to_bytes(2, "big") + payload[6:]
    assert ndp.checksum(source, destination, zero) == 0xFFFF
    for written in (0, 0xFFFF):
        assert ndp.checksum_ok(source, destination, zero[:2] + written.to_bytes(2, "big") + zero[4:])


def test_odd_lengths_are_padded_with_zero() -> None:
    assert ndp.folded(b"\x12\x34\x56") == ndp.folded(b"\x12\x34\x56\x00")
