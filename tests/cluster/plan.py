"""The addresses of an instance: who sits where on its switch. Pure; the same for every instance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

API_PORT = 6443
REGISTRY_PORT = 5000
MAX_NODES = 9  # node1 is number 11; from 21 on, numbers belong to routers and other hosts of tests

FABRIC_V4, FABRIC_V6 = "172.18.0.0/16", "fd00:172:18::/64"
PODS_V4, PODS_V6 = "10.244.0.0/16", "fd00:10:244::/48"
SERVICES_V4, SERVICES_V6 = "10.96.0.0/16", "fd00:10:96::/112"


class Family(Enum):
    """Which IP families the cluster has at all: hosts, pods and Services alike."""

    DUAL = "dual"
    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def v4(self) -> bool:
        return self is not Family.IPV6

    @property
    def v6(self) -> bool:
        return self is not Family.IPV4

    def pick(self, v4: str, v6: str) -> list[str]:
        """Those of the two values whose family is there, IPv4 first."""
        return [v4] * self.v4 + [v6] * self.v6


@dataclass(frozen=True)
class Host:
    """A host on the switch. `number` ends both its addresses and its MAC address."""

    name: str
    number: int

    @property
    def v4(self) -> str:
        return f"172.18.0.{self.number}"

    @property
    def v6(self) -> str:
        return f"fd00:172:18::{self.number}"  # the decimal digits again, so that a reader sees the same host

    @property
    def mac(self) -> str:
        return f"02:ac:12:00:00:{self.number:02x}"


@dataclass(frozen=True)
class Node(Host):
    """A host that runs containerd, kubelet and kube-proxy, and has a pod network of its own."""

    @property
    def index(self) -> int:
        return self.number - 10

    @property
    def pods_v4(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def pods_v6(self) -> str:
        return f"fd00:10:244:{self.index}::/64"


CONTROL_PLANE = Host("cp", 2)
CLIENT = Host("client", 5)
REGISTRY = Host("registry", 6)


@dataclass(frozen=True)
class Plan:
    """What an instance consists of."""

    nodes: int = 3
    family: Family = Family.DUAL

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MAX_NODES:
            raise ValueError(f"{self.nodes} nodes: must be 1 to {MAX_NODES}")

    @property
    def node_hosts(self) -> tuple[Node, ...]:
        return tuple(Node(f"node{i}", 10 + i) for i in range(1, self.nodes + 1))

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (CONTROL_PLANE, CLIENT, REGISTRY, *self.node_hosts)

    def addresses(self, host: Host) -> list[str]:
        """The host's addresses, without prefix length, the primary family first."""
        return self.family.pick(host.v4, host.v6)

    @property
    def pod_ranges(self) -> list[str]:
        return self.family.pick(PODS_V4, PODS_V6)

    @property
    def service_ranges(self) -> list[str]:
        return self.family.pick(SERVICES_V4, SERVICES_V6)

    @property
    def api_service(self) -> list[str]:
        """The addresses that the Service `kubernetes` gets: the first of each range."""
        return self.family.pick("10.96.0.1", "fd00:10:96::1")

    @property
    def dns_service(self) -> list[str]:
        """The addresses that a cluster keeps for its DNS Service by convention."""
        return self.family.pick("10.96.0.10", "fd00:10:96::a")

    @property
    def api_url(self) -> str:
        """Where hosts on the switch reach the API server."""
        return f"https://{url_host(self.addresses(CONTROL_PLANE)[0])}:{API_PORT}"


def url_host(address: str) -> str:
    """The address as a URL has it: IPv6 in brackets (RFC 3986 section 3.2.2)."""
    return f"[{address}]" if ":" in address else address
