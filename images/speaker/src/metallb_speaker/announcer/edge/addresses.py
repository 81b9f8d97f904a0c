"""The node's own addresses by interface, read from the kernel when a BGP session comes up."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping

from metallb_speaker.announcer.bgp.wire.capabilities import Family

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

RTM_GETADDR, NLMSG_DONE, NLMSG_ERROR = 22, 3, 2
NLM_F_REQUEST_DUMP = 0x301
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY, IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED = 0x01, 0x20, 0x40, 0x08
RT_SCOPE_UNIVERSE = 0

_HEADER = struct.Struct("=IHHII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def parse(data: bytes) -> list[tuple[int, Address, int]]:
    """(interface index, address, flags) of each usable global address in one datagram of a dump."""
    out: list[tuple[int, Address, int]] = []
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            break
        if kind == 20 and length >= _HEADER.size + _IFADDR.size:  # RTM_NEWADDR
            family, _, flags, scope, index = _IFADDR.unpack_from(data, position + _HEADER.size)
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
                out.append((index, ipaddress.IPv4Address(raw), wide))
            elif usable and family == socket.AF_INET6 and len(raw) == 16:
                out.append((index, ipaddress.IPv6Address(raw), wide))
        position += (length + 3) & ~3
    return out


def read() -> list[tuple[int, Address, int]]:
    """All usable global addresses. The kernel answers a dump at once; [] where it refuses."""
    out: list[tuple[int, Address, int]] = []
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(0.2)
            sock.bind((0, 0))
            request = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
            sock.send(_HEADER.pack(_HEADER.size + len(request), RTM_GETADDR, NLM_F_REQUEST_DUMP, 1, 0) + request)
            while True:
                data = sock.recv(1 << 16)
                out += parse(data)
                if not data or _HEADER.unpack_from(data)[1] in (NLMSG_DONE, NLMSG_ERROR):
                    return out
    except OSError:
        return out


def next_hops(own: Address) -> Mapping[Family, Address | None]:
    """The next hop by family for a session from `own`: that address, and the other family's first on its interface.

    The router reaches `own`, so an address on the same interface is what it reaches as well. Secondary and
    deprecated addresses come last; without any, routes of that family are not advertised on the session.
    """
    return choose(own, read())


def choose(own: Address, addresses: list[tuple[int, Address, int]]) -> Mapping[Family, Address | None]:
    """`next_hops`, given what the kernel said: pure."""
    indexes = {index for index, address, _ in addresses if address == own}
    others = sorted(
        (bool(flags & (IFA_F_SECONDARY | IFA_F_DEPRECATED)), position, address)
        for position, (index, address, flags) in enumerate(addresses)
        if index in indexes and address.version != own.version
    )
    other = others[0][2] if others else None
    return {"ipv4": own, "ipv6": other} if own.version == 4 else {"ipv4": other, "ipv6": own}
