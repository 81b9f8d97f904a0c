"""The table of frames and the answer that each must get, for ARP and NDP: built and judged by scapy.

The same rows are put to the machine in memory (tests/unit) and to a responder on real veth
(tests/integration), so that the simulation cannot drift from the kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

BROADCAST = "ff:ff:ff:ff:ff:ff"
ZERO = "00:00:00:00:00:00"
STRANGER = "02:00:00:00:99:99"

OWNED4, FOREIGN4 = "10.9.0.100", "10.9.0.77"
OWNED6, FOREIGN6 = "fd09::100", "fd09::77"


@dataclass(frozen=True)
class Wire:
    """Who talks: the client's MAC and addresses, and the node's MAC."""

    client: str
    ip4: str
    ip6: str
    node: str


@dataclass(frozen=True)
class Row:
    """`frame` as bytes, whether an answer is due, and the reason that the machine gives if not.

    `kernel` is why the frame never reaches the machine on a real interface: the filter has refused it.
    """

    name: str
    frame: Callable[[Wire], bytes]
    answered: bool = False
    reason: str = ""
    dad: bool = False
    to: str = ""  # the MAC address that the answer goes to, if not the client's


def _arp(w: Wire, *, dst: str = BROADCAST, src: str = "", **fields: Any) -> bytes:
    defaults = {"op": 1, "hwsrc": w.client, "psrc": w.ip4, "hwdst": ZERO, "pdst": OWNED4}
    return bytes(Ether(dst=dst, src=src or w.client) / ARP(**{**defaults, **fields}))


def group_of(target: str) -> str:
    low = ipaddress.IPv6Address(target).packed[13:]
    return str(ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + low))


def group_mac(target: str) -> str:
    return "33:33:ff:" + ipaddress.IPv6Address(target).packed[13:].hex(":")


def _ns(
    w: Wire,
    target: str = OWNED6,
    *,
    dst: str = "",
    src: str = "",
    ip_src: str = "",
    ip_dst: str = "",
    hlim: int = 255,
    option: Any = "default",
    **fields: Any,
) -> bytes:
    packet = Ether(dst=dst or group_mac(target), src=src or w.client)
    packet /= IPv6(src=ip_src or w.ip6, dst=ip_dst or group_of(target), hlim=hlim)
    packet /= ICMPv6ND_NS(tgt=target, **fields)
    if option == "default":
        option = ICMPv6NDOptSrcLLAddr(lladdr=w.client)
    if option is not None:
        packet /= option
    return bytes(packet)


def _patched(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def _na(w: Wire) -> bytes:
    packet = Ether(dst="33:33:00:00:00:01", src=w.client) / IPv6(src=OWNED6, dst="ff02::1", hlim=255)
    return bytes(packet / ICMPv6ND_NA(tgt=OWNED6, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=w.client))


def _resum(frame: bytes) -> bytes:
    """The same frame with a right checksum, computed by scapy over opaque octets."""
    payload = frame[54:56] + b"\0\0" + frame[58:]
    return frame[:56] + in6_chksum(58, IPv6(frame[14:54]), payload).to_bytes(2, "big") + frame[58:]


def _short(w: Wire) -> bytes:
    whole = _ns(w)
    return _resum(whole[:18] + b"\x00\x10" + whole[20:70])


ARP_ROWS = (
    Row("broadcast request", _arp, True),
    Row("padded to the minimum", lambda w: _arp(w).ljust(60, b"\0"), True),
    Row("unicast request to us", lambda w: _arp(w, dst=w.node), True),
    Row("unicast request, target hardware address set", lambda w: _arp(w, dst=w.node, hwdst=w.node), True),
    Row("probe: sender 0.0.0.0", lambda w: _arp(w, psrc="0.0.0.0"), True),
    Row("sender outside the subnet", lambda w: _arp(w, psrc="192.0.2.7"), True),
    Row("asked for another host: answer goes to the sender hardware address", lambda w: _arp(w, src=STRANGER), True),
    Row("address not owned", lambda w: _arp(w, pdst=FOREIGN4), reason="notOwned"),
    Row("the neighbour of an owned address", lambda w: _arp(w, pdst="10.9.0.101"), reason="notOwned"),
    Row("unicast to another host", lambda w: _arp(w, dst=STRANGER), reason="notForUs"),
    Row("reply", lambda w: _arp(w, op=2), reason="notARequest"),
    Row("RARP operation", lambda w: _arp(w, op=3), reason="notARequest"),
    Row("foreign gratuitous request", lambda w: _arp(w, psrc=OWNED4, hwsrc=w.client), reason="foreignClaim"),
    Row("foreign gratuitous reply", lambda w: _arp(w, op=2, psrc=OWNED4, hwdst=BROADCAST), reason="foreignClaim"),
    Row("sent by ourselves", lambda w: _arp(w, src=w.node, hwsrc=w.node), reason="ownFrame"),
    Row("broadcast as sender hardware address", lambda w: _arp(w, hwsrc=BROADCAST), reason="badSender"),
    Row("multicast as sender hardware address", lambda w: _arp(w, hwsrc="01:00:5e:00:00:01"), reason="badSender"),
    Row("zero as sender hardware address", lambda w: _arp(w, hwsrc=ZERO), reason="badSender"),
    Row("hardware type not Ethernet", lambda w: _arp(w, hwtype=6), reason="notEthernetIPv4"),
    Row("protocol type not IPv4", lambda w: _arp(w, ptype=0x86DD), reason="notEthernetIPv4"),
    Row("hardware length 8", lambda w: _patched(_arp(w), 18, b"\x08"), reason="notEthernetIPv4"),
    Row("protocol length 16", lambda w: _patched(_arp(w), 19, b"\x10"), reason="notEthernetIPv4"),
    Row("cut inside the target address", lambda w: _arp(w)[:41], reason="truncated"),
    Row("cut after the operation", lambda w: _arp(w)[:22], reason="truncated"),
    Row("cut after the Ethernet header", lambda w: _arp(w)[:14], reason="truncated"),
    Row(
        "tagged 802.1Q",
        lambda w: bytes(Ether(dst=BROADCAST, src=w.client) / Dot1Q(vlan=7) / ARP(_arp(w)[14:])),
        reason="tagged",
    ),
    Row(
        "tagged 802.1ad and 802.1Q",
        lambda w: bytes(Ether(dst=BROADCAST, src=w.client) / Dot1AD(vlan=5) / Dot1Q(vlan=7) / ARP(_arp(w)[14:])),
        reason="tagged",
    ),
)

NDP_ROWS = (
    Row("solicitation", _ns, True),
    Row("no source link-layer option", lambda w: _ns(w, option=None), True),
    Row("unicast, as neighbor unreachability detection asks", lambda w: _ns(w, dst=w.node, ip_dst=OWNED6), True),
    Row("unicast without option", lambda w: _ns(w, dst=w.node, ip_dst=OWNED6, option=None), True),
    Row("duplicate address detection", lambda w: _ns(w, ip_src="::", option=None), True, dad=True),
    Row("link-local source", lambda w: _ns(w, ip_src="fe80::1234"), True),
    Row(
        "unknown option first",
        lambda w: _ns(w, option=ICMPv6NDOptMTU() / ICMPv6NDOptSrcLLAddr(lladdr=w.client)),
        True,
    ),
    Row("padded behind the packet", lambda w: _ns(w) + bytes(10), True),
    Row("flow label and traffic class", lambda w: _patched(_ns(w), 14, b"\x6e\x01\x23\x45"), True),
    Row("target not owned", lambda w: _ns(w, FOREIGN6), reason="notOwned"),
    Row("target in the same group", lambda w: _ns(w, "fd09:1::100"), reason="notOwned"),
    Row("hop limit 254", lambda w: _ns(w, hlim=254), reason="badHopLimit"),
    Row("wrong checksum", lambda w: _ns(w, cksum=0x1234), reason="badChecksum"),
    Row("code 1", lambda w: _ns(w, code=1), reason="badCode"),
    Row("DAD with a link-layer option", lambda w: _ns(w, ip_src="::"), reason="badSource"),
    Row(
        "DAD to the target itself",
        lambda w: _ns(w, ip_src="::", ip_dst=OWNED6, dst=w.node, option=None),
        reason="badSource",
    ),
    Row("option of length 0", lambda w: _resum(_patched(_ns(w), 79, b"\0")), reason="badOption"),
    Row("option beyond the end", lambda w: _resum(_patched(_ns(w), 79, b"\2")), reason="badOption"),
    Row("multicast target", lambda w: _ns(w, "ff02::1:ff00:100"), reason="badTarget"),
    Row("multicast source", lambda w: _ns(w, ip_src="ff02::1"), reason="badSource"),
    Row(
        "group as link-layer address",
        lambda w: _ns(w, option=ICMPv6NDOptSrcLLAddr(lladdr=BROADCAST)),
        reason="badSender",
    ),
    Row("sent by ourselves", lambda w: _ns(w, src=w.node), reason="ownFrame"),
    Row("unicast to another host", lambda w: _ns(w, dst=STRANGER, ip_dst=OWNED6), reason="notForUs"),
    Row("payload longer than the frame", lambda w: _ns(w)[:80], reason="truncated"),
    Row("cut inside the IPv6 header", lambda w: _ns(w)[:50], reason="truncated"),
    Row("16 octets of ICMPv6", _short, reason="badLength"),
    Row("not ICMPv6", lambda w: _patched(_ns(w), 20, b"\x11"), reason="wrongType"),
    Row("echo request", lambda w: _patched(_ns(w), 54, b"\x80"), reason="wrongType"),
    Row("foreign claim", _na, reason="foreignClaim"),
    Row(
        "tagged 802.1Q",
        lambda w: _ns(w)[:12] + b"\x81\x00\x00\x07" + _ns(w)[12:],
        reason="tagged",
    ),
)


def judge_arp(row: Row, w: Wire, answer: bytes) -> None:
    """The answer to a row, as scapy reads it. Raises AssertionError."""
    question, reply = Ether(row.frame(w)), Ether(answer)
    assert reply[Ether].dst == (row.to or w.client)
    assert reply[Ether].src == w.node
    assert reply[Ether].type == 0x0806
    message = reply[ARP]
    assert (message.hwtype, message.ptype, message.hwlen, message.plen, message.op) == (1, 0x0800, 6, 4, 2)
    assert (message.hwsrc, message.psrc) == (w.node, OWNED4)
    assert (message.hwdst, message.pdst) == (question[ARP].hwsrc, question[ARP].psrc)


def judge_ndp(row: Row, w: Wire, answer: bytes) -> None:
    """The answer to a row, as scapy reads it, checksum included. Raises AssertionError."""
    question, reply = Ether(row.frame(w)), Ether(answer)
    assert reply[Ether].src == w.node
    assert reply[IPv6].hlim == 255
    assert reply[IPv6].src == OWNED6
    message = reply[ICMPv6ND_NA]
    assert message.tgt == OWNED6
    assert (message.R, message.O) == (0, 1)
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == w.node
    if row.dad:
        assert (reply[Ether].dst, reply[IPv6].dst, message.S) == ("33:33:00:00:00:01", "ff02::1", 0)
    else:
        assert (reply[Ether].dst, reply[IPv6].dst, message.S) == (w.client, question[IPv6].src, 1)
    given, again = message.cksum, reply.copy()
    del again[ICMPv6ND_NA].cksum
    assert Ether(bytes(again))[ICMPv6ND_NA].cksum == given
    assert Raw not in reply
