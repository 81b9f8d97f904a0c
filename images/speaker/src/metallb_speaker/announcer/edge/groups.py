"""Solicited-node groups, joined through IPv6 so that MLD (RFC 3810) tells switches that snoop on it.

A socket may join a limited number of groups (its option memory, net.core.optmem_max), so there are
several. The sockets are never bound to a port: they receive nothing. Joining needs no privilege.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Final, Protocol

#: Groups per socket: well below what the smallest default option memory (20 KiB) holds.
PER_SOCKET: Final = 200

Membership = tuple[int, bytes]  # interface index, group (16 octets)


class GroupJoins(Protocol):
    """Memberships of all interfaces. Nothing raises: a vanished interface took its memberships with it."""

    def join(self, ifindex: int, group: bytes) -> None: ...
    def leave(self, ifindex: int, group: bytes) -> None: ...
    def forget(self, ifindex: int) -> None: ...
    def close(self) -> None: ...


class FakeGroups:
    """`GroupJoins` in memory."""

    def __init__(self) -> None:
        self.joined: set[Membership] = set()

    def join(self, ifindex: int, group: bytes) -> None:
        self.joined.add((ifindex, group))

    def leave(self, ifindex: int, group: bytes) -> None:
        self.joined.discard((ifindex, group))

    def forget(self, ifindex: int) -> None:
        self.joined = {membership for membership in self.joined if membership[0] != ifindex}

    def close(self) -> None:
        self.joined.clear()


class Groups:
    """`GroupJoins` in the kernel."""

    def __init__(self) -> None:
        self._sockets: list[tuple[socket.socket, set[Membership]]] = []
        self._joined: dict[Membership, int] = {}  # -> which socket

    def forget(self, ifindex: int) -> None:
        """Leave every group of one interface."""
        for membership in [m for m in self._joined if m[0] == ifindex]:
            self.leave(*membership)

    def close(self) -> None:
        for sock, _ in self._sockets:
            sock.close()
        self._sockets.clear()
        self._joined.clear()

    def join(self, ifindex: int, group: bytes) -> None:
        """Join, once. What cannot be joined is left to the packet socket's own membership."""
        membership = (ifindex, group)
        if membership in self._joined:
            return
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

    def leave(self, ifindex: int, group: bytes) -> None:
        membership = (ifindex, group)
        at = self._joined.pop(membership, None)
        if at is None:
            return
        sock, joined = self._sockets[at]
        joined.discard(membership)
        with contextlib.suppress(OSError):  # the interface is gone, and the membership with it
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _request(membership))


def _request(membership: Membership) -> bytes:
    """`struct ipv6_mreq`."""
    ifindex, group = membership
    return group + struct.pack("i", ifindex)
