"""The node's own addresses by interface, read from the kernel when a BGP session comes up, and now and then."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from metallb_speaker.announcer.bgp.wire.capabilities import Family

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
RTM_GETADDR, NLMSG_DONE, NLMSG_ERROR = 22, 3, 2
NLM_F_REQUEST_DUMP = 0x301
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY, IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED = 0x01, 0x20, 0x40, 0x08
RT_SCOPE_UNIVERSE = 0

_HEADER = struct.Struct("=IHHII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


class Own(NamedTuple):
    """One of the node's addresses."""

    interface: int  # its index
    address: Address
    length: int  # of the prefix
    flags: int


def parse(data: bytes) -> list[Own]:
    """Each usable global address in one datagram of a dump."""
    out: list[Own] = []
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            break
        if kind == 20 and length >= _HEADER.size + _IFADDR.size:  # RTM_NEWADDR
            family, prefix, flags, scope, index = _IFADDR.unpack_from(data, position + _HEADER.size)
            values: dict[int, bytes] = {}
            at, end = position + _HEADER.size + _IFADDR.size, position + length
            while at + _ATTRIBUTE.size <= end:
                size, name = _ATTRIBUTE.unpack_from(data, at)
                if size < _ATTRIBUTE.size or at + size > end:
                    break
                values[name] = data[at + _ATTRIBUTE.size : at + size]
                at += (size + 3) & ~3
            raw = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS, b"")
            wide = int.from_bytes(values.get(IFA_FLAGS, b""), "little") | flags
            usable = scope == RT_SCOPE_UNIVERSE and not wide & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
            if usable and family == socket.AF_INET and len(raw) == 4:
                out.append(Own(index, ipaddress.IPv4Address(raw), prefix, wide))
            elif usable and family == socket.AF_INET6 and len(raw) == 16:
                out.append(Own(index, ipaddress.IPv6Address(raw), prefix, wide))
        position += (length + 3) & ~3
    return out


def read(index: int = 0) -> list[Own]:
    """All usable global addresses, or those of one interface: there may be thousands on others (IPVS).

    The kernel answers a dump at once; [] where it refuses.
    """
    out: list[Own] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(0.2)
            sock.bind((0, 0))
            if index:  # without it (before Linux 4.20) the kernel gives all
                sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            request = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, index)
            sock.send(_HEADER.pack(_HEADER.size + len(request), RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0) + request)
            while True:
                data = sock.recv(1 << 16)
                out += parse(data)
                if not data or _HEADER.unpack_from(data)[1] in (NLMSG_DONE, NLMSG_ERROR):
                    return out
    except OSError:
        return out


class NextHops:
    """Call it with the own address of a session for the next hop by family: that address, and one of the other family
    on its interface.

    The router reaches the session's own address, so one on the same interface is what it reaches as well. Without any,
    routes of that family are not advertised on the session.
    """

    def __init__(self) -> None:
        self._indexes: dict[Address, int] = {}

    def __call__(self, own: Address) -> Mapping[Family, Address | None]:
        found = read(index) if (index := self._indexes.pop(own, 0)) else []
        if all(entry.address != own for entry in found):
            found = read()
        for entry in found:
            if entry.address == own:
                self._indexes[own] = entry.interface
        return choose(own, found)


def choose(own: Address, addresses: list[Own]) -> Mapping[Family, Address | None]:
    """`NextHops`, given what the kernel said: pure.

    Secondary, temporary and deprecated addresses come last, then those that are alone in their prefix: a floating
    address of somebody (VRRP, say) moves away. Among equals the oldest one counts, so that a new one changes nothing;
    the kernel lists IPv4 addresses in the order in which they came, IPv6 addresses the other way round.
    """
    indexes = {entry.interface for entry in addresses if entry.address == own}
    others = sorted(
        (
            bool(entry.flags & (IFA_F_SECONDARY | IFA_F_DEPRECATED)),
            entry.length == entry.address.max_prefixlen,
            position if entry.address.version == 4 else -position,
            entry.address,
        )
        for position, entry in enumerate(addresses)
        if entry.interface in indexes and entry.address.version != own.version
    )
    other = others[0][-1] if others else None
    return {"ipv4": own, "ipv6": other} if own.version == 4 else {"ipv4": other, "ipv6": own}
