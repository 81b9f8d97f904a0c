"""Whether a peer is on a link of this node: what the kernel's route to it says."""

from __future__ import annotations

import ipaddress
import socket
import struct

from metallb_speaker.announcer.edge.addresses import Address

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLM_F_REQUEST = 1
RTA_DST, RTA_SRC, RTA_GATEWAY, RTA_VIA = 1, 2, 5, 18

_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def on_link(peer: str, source: str) -> bool:
    """No gateway between; also where the kernel has no route now, or does not say: then nothing gets there anyway."""
    try:
        address = ipaddress.ip_address(peer)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(0.2)
            sock.bind((0, 0))
            sock.send(request(address, ipaddress.ip_address(source) if source else None))
            return not has_gateway(sock.recv(1 << 14))
    except (OSError, ValueError):
        return True


def request(peer: Address, source: Address | None) -> bytes:
    """RTM_GETROUTE for one destination; `source`, where it is set, chooses among routing policies."""
    body = b""
    for kind, address in ((RTA_DST, peer), (RTA_SRC, source)):
        if address is not None:
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), kind) + address.packed
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    head = _ROUTE.pack(family, peer.max_prefixlen, source.max_prefixlen if source else 0, 0, 0, 0, 0, 0, 0)
    size = _HEADER.size + len(head) + len(body)
    return _HEADER.pack(size, RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + head + body


def has_gateway(data: bytes) -> bool:
    """Whether an answer is a route by way of a router, of either family."""
    if len(data) < _HEADER.size + _ROUTE.size or _HEADER.unpack_from(data)[1] != RTM_NEWROUTE:
        return False
    at, end = _HEADER.size + _ROUTE.size, min(len(data), _HEADER.unpack_from(data)[0])
    while at + _ATTRIBUTE.size <= end:
        size, name = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return False
        if name in (RTA_GATEWAY, RTA_VIA):
            return True
        at += (size + 3) & ~3
    return False
