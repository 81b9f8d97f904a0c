"""The membership port: one UDP socket, IPv4 or IPv6, non-blocking; and a fake network beside it."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from metallb_speaker.announcer.membership.api import Endpoint

#: Datagrams read in one turn of the loop. A flood on the port must not keep BFD or ARP waiting:
#: forged ones cost about 5 us each (one HMAC), so a turn is bounded to a fraction of a millisecond.
PER_TURN = 64
#: One octet more than the longest datagram of membership, so that a longer one is seen to be too long.
READ = 1233
#: The kernel's queue: a burst of joins in a cluster of hundreds, while this process waits for its CPU share.
QUEUE = 512 * 1024


class Udp(Protocol):
    """What the loop needs of the membership port."""

    def fileno(self) -> int:
        """For the selector."""

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """At most PER_TURN waiting datagrams."""

    def send(self, data: bytes, target: Endpoint) -> None:
        """Send or drop; what could not be sent is counted in `errors`."""

    def drain(self) -> int:
        """Read and forget all that waits; how many that were."""

    def close(self) -> None:
        """Close the socket."""


class UdpEdge:
    """The real socket, bound to one address; "" binds to all addresses of both families."""

    def __init__(self, address: str, port: int) -> None:
        """Raises OSError where the address is not this host's, or the port is taken; ValueError for no address."""
        any_address = not address
        family = socket.AF_INET6 if any_address or ipaddress.ip_address(address).version == 6 else socket.AF_INET
        self.errors: Counter[str] = Counter()
        self._v6 = family == socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if self._v6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if any_address else 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
            self._socket.bind((address or "::", port))
        except BaseException:
            self._socket.close()
            raise
        self._mapped = any_address

    @property
    def port(self) -> int:
        """The bound port."""
        port: int = self._socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """See Udp."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """See Udp. An error that the network reported (ICMP) is counted, and reading goes on."""
        received: list[tuple[bytes, Endpoint]] = []
        for _ in range(PER_TURN):
            try:
                data, source = self._socket.recvfrom(READ)
            except BlockingIOError:
                break
            except OSError as error:
                self._count(error)
                continue
            address = source[0].removeprefix("::ffff:") if self._mapped else source[0]
            received.append((data, (address.partition("%")[0], source[1])))
        return received

    def send(self, data: bytes, target: Endpoint) -> None:
        """See Udp. A full queue or an unreachable member is no reason to wait: SWIM bears the loss."""
        address = f"::ffff:{target[0]}" if self._mapped and ":" not in target[0] else target[0]
        try:
            self._socket.sendto(data, (address, target[1]))
        except OSError as error:
            self._count(error)

    def drain(self) -> int:
        """See Udp. Bounded by the kernel's queue: at most as many as fit in it."""
        count = 0
        for _ in range(QUEUE // 64):
            try:
                self._socket.recvfrom(READ)
            except BlockingIOError:
                break
            except OSError as error:
                self._count(error)
            count += 1
        return count

    def close(self) -> None:
        """See Udp."""
        self._socket.close()

    def _count(self, error: OSError) -> None:
        self.errors[error.strerror or type(error).__name__] += 1


class FakeNetwork:
    """Delivers between FakeUdp sockets in one process, unless `lost` says otherwise of (data, source, target)."""

    def __init__(self, lost: Callable[[bytes, Endpoint, Endpoint], bool] = lambda data, source, target: False) -> None:
        self.sockets: dict[Endpoint, FakeUdp] = {}
        self.lost = lost

    def bind(self, address: str, port: int) -> FakeUdp:
        """A socket of this network. Raises OSError for one that is taken."""
        endpoint = (address, port)
        if endpoint in self.sockets:
            raise OSError(98, "Address already in use")
        self.sockets[endpoint] = FakeUdp(self, endpoint)
        return self.sockets[endpoint]


class FakeUdp:
    """A socket of a FakeNetwork."""

    def __init__(self, network: FakeNetwork, endpoint: Endpoint) -> None:
        self._network = network
        self.endpoint = endpoint
        self.queue: deque[tuple[bytes, Endpoint]] = deque()

    def fileno(self) -> int:
        """No descriptor: a selector cannot wait for it."""
        return -1

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """See Udp."""
        return [self.queue.popleft() for _ in range(min(PER_TURN, len(self.queue)))]

    def send(self, data: bytes, target: Endpoint) -> None:
        """See Udp."""
        receiver = self._network.sockets.get(target)
        if receiver is not None and not self._network.lost(data, self.endpoint, target):
            receiver.queue.append((data, self.endpoint))

    def drain(self) -> int:
        """See Udp."""
        count = len(self.queue)
        self.queue.clear()
        return count

    def close(self) -> None:
        """See Udp."""
        self._network.sockets.pop(self.endpoint, None)
