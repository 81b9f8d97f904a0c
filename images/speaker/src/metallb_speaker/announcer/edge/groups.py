"""Solicited-node groups, joined through IPv6 so that MLD (RFC 3810) tells switches that snoop on it.

A socket may join a limited number of groups (its option memory, net.core.optmem_max), so there are
several. The sockets are never bound to a port: they receive nothing. Joining needs no privilege.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from typing import Final

#: Groups per socket: well below what the smallest default option memory (20 KiB) holds.
PER_SOCKET: Final = 200

Membership = tuple[int, bytes]  # interface index, group (16 octets)


class Groups:
    """The memberships of all interfaces."""

    def __init__(self) -> None:
        self._sockets: list[tuple[socket.socket, set[Membership]]] = []
        self._joined: dict[Membership, int] = {}  # -> which socket

    def set(self, ifindex: int, groups: Iterable[bytes]) -> None:
        """The groups of one interface: the whole set. What cannot be joined is tried again at the next call."""
        wanted = {(ifindex, group) for group in groups}
        for membership in [m for m in self._joined if m[0] == ifindex and m not in wanted]:
            self._leave(membership)
        for membership in wanted - self._joined.keys():
            self._join(membership)

    def close(self) -> None:
        for sock, _ in self._sockets:
            sock.close()
        self._sockets.clear()
        self._joined.clear()

    def _join(self, membership: Membership) -> None:
        at = next((i for i, (_, joined) in enumerate(self._sockets) if len(joined) < PER_SOCKET), -1)
        if at < 0:
            try:
                flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                self._sockets.append((socket.socket(socket.AF_INET6, flags), set()))
            except OSError:
                return  # no IPv6 in this kernel: the packet socket's own membership is all there can be
            at = len(self._sockets) - 1
        sock, joined = self._sockets[at]
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _request(membership))
        except OSError as error:
            # IPv6 is off on this interface, or it is gone. Joined already can only be ourselves.
            if error.errno != errno.EADDRINUSE:
                return
        joined.add(membership)
        self._joined[membership] = at

    def _leave(self, membership: Membership) -> None:
        sock, joined = self._sockets[self._joined.pop(membership)]
        joined.discard(membership)
        with contextlib.suppress(OSError):  # the interface is gone, and the membership with it
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _request(membership))


def _request(membership: Membership) -> bytes:
    """`struct ipv6_mreq`."""
    ifindex, group = membership
    return group + struct.pack("i", ifindex)
