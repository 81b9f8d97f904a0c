"""rtnetlink (rtnetlink(7)): requests for dumps, and their answers decoded into a `Snapshot`; sans-IO.

A notification is only a hint that something changed; the dump that follows is the truth. So a lost or
truncated notification costs nothing, and no order of messages can leave a wrong picture behind.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterator
from typing import Final

from metallb_speaker.announcer.layer2.interfaces import Link, OnLink, Snapshot

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4
RTM_NEWLINK: Final = 16
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
NLM_F_REQUEST: Final = 0x1
NLM_F_DUMP: Final = 0x300
NLM_F_DUMP_INTR: Final = 0x10

AF_INET: Final = 2
AF_INET6: Final = 10
IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MASTER: Final = 10
IFLA_LINKINFO: Final = 18
IFLA_EXT_MASK: Final = 29
IFLA_INFO_KIND: Final = 1
IFLA_INFO_SLAVE_KIND: Final = 4
SKIP_STATS: Final = 8  # RTEXT_FILTER_SKIP_STATS: a third of the octets per link
IFA_ADDRESS: Final = 1
IFA_FLAGS: Final = 8
IFA_F_NOPREFIXROUTE: Final = 0x200
RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_MULTIPATH: Final = 9
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTN_UNICAST: Final = 1
RT_TABLE_MAIN: Final = 254
#: Who makes connected routes: kernel, boot (`ip route`), static, router advertisement, DHCP. A routing daemon's
#: are not read at all: a full table has a million of them, and none is connected.
PROTOCOLS: Final = (2, 3, 4, 9, 16)

#: Errors that say: ask again. Any other says that there is no such table.
TRANSIENT: Final = frozenset((errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.EBUSY, errno.ENOBUFS))

# Multicast groups (bits of sockaddr_nl.nl_groups): link, IPv4 address and route, IPv6 address and route.
GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


def _request(kind: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body


def _attributes(data: bytes) -> dict[int, bytes]:
    """The attributes, the last of a type winning; what is truncated ends the list."""
    out: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > len(data):
            break
        out[kind & 0x3FFF] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return out


def _u32(value: bytes | None) -> int:
    return int(_U32.unpack(value)[0]) if value is not None and len(value) == 4 else 0


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message; a truncated one ends the datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < 16 or at + length > len(data):
            return
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += length + 3 & ~3


class Dump:
    """One round of dumps: links, addresses, routes of each protocol and family.

    Send `request()`; feed what comes to `receive`; each time it returns True, send the next `request()`
    until that is None: then `snapshot()`. `interrupted`: the picture is of two moments, or not whole; ask again.
    """

    def __init__(self, sequence: int = 1, *, strict: bool = True) -> None:
        self.interrupted = False
        self._links: dict[int, Link] = {}
        self._on_link: dict[OnLink, None] = {}
        self._link_local: dict[int, bytes] = {}
        self._sequence = sequence
        self._asked = 0
        extension = _ATTRIBUTE.pack(8, IFLA_EXT_MASK) + _U32.pack(SKIP_STATS)
        self._queue: list[tuple[int, bytes]] = [
            (RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + extension),
            (RTM_GETADDR, _IFADDR.pack(AF_INET, 0, 0, 0, 0)),
            (RTM_GETADDR, _IFADDR.pack(AF_INET6, 0, 0, 0, 0)),
        ]
        for family in (AF_INET, AF_INET6):
            # Without strict checking (Linux < 4.20) the kernel ignores the filter, so one dump is enough.
            for protocol in PROTOCOLS if strict else (0,):
                table = RT_TABLE_MAIN if strict else 0
                kind = RTN_UNICAST if strict else 0
                self._queue.append((RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, table, protocol, 0, kind, 0)))

    def request(self) -> bytes | None:
        """The next request, or None when all is known."""
        if not self._queue:
            return None
        self._sequence += 1
        kind, body = self._queue.pop(0)
        self._asked = kind
        return _request(kind, self._sequence, body)

    def receive(self, data: bytes) -> bool:
        """Take one datagram; True when the dump that was asked for is over. Never raises."""
        for kind, flags, sequence, body in messages(data):
            if sequence != self._sequence:
                continue  # of a round that was given up
            if flags & NLM_F_DUMP_INTR:
                self.interrupted = True
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                self._judge(-_I32.unpack_from(body)[0] if len(body) >= 4 else 0)
                return True
            if kind == NLMSG_OVERRUN:
                self.interrupted = True
                return True
            if kind == RTM_NEWLINK and len(body) >= 16:
                self._link(body)
            elif kind == RTM_NEWADDR and len(body) >= 8:
                self._address(body)
            elif kind == RTM_NEWROUTE and len(body) >= 12:
                self._route(body)
        return False

    def _judge(self, code: int) -> None:
        """An error may only mean that the kernel has no such table (no IPv6): then nothing is on-link there.

        But a picture without interfaces would silence this node, so without them there is no picture.
        """
        if code and (code in TRANSIENT or self._asked == RTM_GETLINK):
            self.interrupted = True

    def snapshot(self) -> Snapshot:
        links = tuple(link for _, link in sorted(self._links.items()))
        on_link = tuple(sorted(self._on_link, key=lambda r: (r.index, r.network.version, r.network)))
        return Snapshot(links, on_link, tuple(sorted(self._link_local.items())))

    def _link(self, body: bytes) -> None:
        _, hardware, index, flags, _ = _IFINFO.unpack_from(body)
        attributes = _attributes(body[16:])
        name = attributes.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        info = _attributes(attributes.get(IFLA_LINKINFO, b""))
        self._links[index] = Link(
            index=index,
            name=name,
            flags=flags,
            hardware=hardware,
            mac=attributes.get(IFLA_ADDRESS, b""),
            master=_u32(attributes.get(IFLA_MASTER)),
            kind=info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
            slave_kind=info.get(IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        )

    def _address(self, body: bytes) -> None:
        _, length, flags, _, index = _IFADDR.unpack_from(body)
        attributes = _attributes(body[8:])
        address = attributes.get(IFA_ADDRESS, b"")
        if len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80:
            self._link_local.setdefault(index, address)
        if (_u32(attributes.get(IFA_FLAGS)) or flags) & IFA_F_NOPREFIXROUTE:
            return  # whoever set it makes the route, if there is one
        self._add(index, address, length)

    def _route(self, body: bytes) -> None:
        _, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
        attributes = _attributes(body[12:])
        table = _u32(attributes.get(RTA_TABLE)) or table
        if kind != RTN_UNICAST or table != RT_TABLE_MAIN or protocol not in PROTOCOLS or length == 0:
            return
        if any(attribute in attributes for attribute in (RTA_GATEWAY, RTA_VIA, RTA_MULTIPATH)):
            return
        self._add(_u32(attributes.get(RTA_OIF)), attributes.get(RTA_DST, b""), length)

    def _add(self, index: int, address: bytes, length: int) -> None:
        if not index or len(address) not in (4, 16) or length > 8 * len(address):
            return
        if len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80:
            return  # link-local: on every link, of no use to tell links apart
        if length == 8 * len(address):
            return  # a host's own address, or a route to one pod
        network = ipaddress.ip_network((address, length), strict=False)
        self._on_link[OnLink(index, network)] = None
