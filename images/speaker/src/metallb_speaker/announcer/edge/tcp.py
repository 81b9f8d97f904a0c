"""TCP sockets for BGP: options, MD5 (RFC 2385), GTSM (RFC 5082). No state, no decision."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# From linux/tcp.h and linux/in.h, where Python's socket module has no name for them.
TCP_MD5SIG = 14
IP_MINTTL = 21
IPV6_MINHOPCOUNT = 73
MD5_KEY_MAX = 80

_CS6 = 0xC0  # internetwork control: BGP goes before other traffic
_SOCKADDR_STORAGE = 128


def family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def set_md5(sock: socket.socket, peer: Address, key: str) -> None:
    """Sign and demand signatures on segments to and from `peer`; "" takes the key away, if there is one.

    Raises OSError where the kernel lacks TCP MD5, ValueError for a key above 80 octets.
    """
    raw = key.encode()
    if len(raw) > MD5_KEY_MAX:
        raise ValueError(f"a TCP MD5 key has at most {MD5_KEY_MAX} octets, this one has {len(raw)}")
    if peer.version == 4:
        address = struct.pack("=HH4s", socket.AF_INET, 0, peer.packed)
    else:
        address = struct.pack("=HHI16s", socket.AF_INET6, 0, 0, peer.packed)
    # struct tcp_md5sig: address, flags, prefix length, key length, interface, key (linux/tcp.h).
    option = address.ljust(_SOCKADDR_STORAGE, b"\0") + struct.pack("=BBHI", 0, 0, len(raw), 0) + raw.ljust(80, b"\0")
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, option)
    except OSError as error:
        if raw or error.errno != errno.ENOENT:
            raise


def send_hops(sock: socket.socket, *, version: int, gtsm: bool) -> None:
    """Mark packets as network control; with GTSM send them with 255, as it asks of the sender (RFC 5082 section 3)."""
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CS6)
        if gtsm:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _CS6)
        if gtsm:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)


def demand_hops(sock: socket.socket, *, version: int) -> None:
    """GTSM: take only what comes with 255, which nobody off-link can forge.

    For a connection that stands: some routers (BIRD) answer the first SYN with an ordinary TTL.
    """
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255)


def demand_no_hops(sock: socket.socket) -> None:
    """At the end: a peer whose packets are refused for their TTL acknowledges nothing that we could see, so that what
    is to be its last word of us, and our FIN, would wait behind the first octets for ever."""
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 0)


def dial(peer: Address, port: int, *, source: str, password: str, gtsm: bool) -> socket.socket:
    """A socket whose connect is under way. Raises OSError or ValueError; nothing is left open then."""
    sock = socket.socket(family(peer), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_hops(sock, version=peer.version, gtsm=gtsm)
        if password:
            set_md5(sock, peer, password)
        if source:
            sock.bind((source, 0))
        error = sock.connect_ex((str(peer), port))
        if error not in (0, 115):  # EINPROGRESS
            raise OSError(error, "connect")
    except (OSError, ValueError):
        sock.close()
        raise
    return sock


def bind(version: int, port: int) -> socket.socket:
    """A socket on all addresses of one family, to `listen` on once its keys are set: a call that comes before would be
    taken unsigned. Raises OSError: the port may be the network plugin's."""
    kind = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(kind, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        send_hops(sock, version=version, gtsm=True)  # a peer with GTSM may judge our answer to its SYN, too
        sock.bind(("0.0.0.0" if version == 4 else "::", port))  # noqa: S104 - BGP listens for known peers only
    except OSError:
        sock.close()
        raise
    return sock
