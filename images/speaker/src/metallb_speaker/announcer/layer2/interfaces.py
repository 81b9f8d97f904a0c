"""Which interfaces layer 2 uses, what each refused one is refused for, and what is on-link where: pure.

Used are interfaces that are up and can broadcast Ethernet, with ARP, and that are a host's own: not a
port of a bridge, bond or team (the master is used instead), not the host's side of a pod's pair.
A group's patterns narrow that down. A pattern without wildcards also takes an interface that is
refused for its name alone: whoever spells it out means it.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

# linux/if.h
IFF_UP: Final = 0x1
IFF_BROADCAST: Final = 0x2
IFF_LOOPBACK: Final = 0x8
IFF_NOARP: Final = 0x80
IFF_LOWER_UP: Final = 0x10000
ARPHRD_ETHER: Final = 1

# Why an interface is not used; the same names in /status and in tests.
LOOPBACK: Final = "loopback"
DOWN: Final = "down"
NOT_ETHERNET: Final = "notEthernet"
NO_BROADCAST: Final = "noBroadcast"
NO_ARP: Final = "noARP"
ENSLAVED: Final = "enslaved"
VIRTUAL: Final = "virtual"
#: Of these an interface is used, or would be by a group that names it.
IN_USE: Final = ("", VIRTUAL)

#: Names that container runtimes, network plugins and kube-proxy give to interfaces that face pods, not the network.
VIRTUAL_NAMES: Final = (
    "kube-ipvs*",
    "kube-bridge",
    "kube-dummy*",
    "nodelocaldns*",
    "docker*",
    "br-????????????",  # a Docker network: br- and twelve hexadecimal digits
    "podman*",
    "cni*",
    "cbr[0-9]*",
    "veth*",
    "cali*",
    "vxlan.calico",
    "vxlan-v6.calico",
    "tunl*",
    "flannel*",
    "lxc*",
    "cilium_*",
    "antrea-*",
    "ovn-k8s-*",
    "ovs-system",
    "genev_sys_*",
    "vxlan_sys_*",
    "weave",
    "vethwe*",
    "virbr*",
    "dummy*",
    "ifb*",
)
#: Kinds that never lead to a network, whatever their name.
VIRTUAL_KINDS: Final = frozenset(("dummy", "ifb", "nlmon"))


@dataclass(frozen=True, slots=True)
class Link:
    """One interface, as rtnetlink tells it. `mac` is 6 octets for Ethernet, `master` 0 without one."""

    index: int
    name: str
    flags: int
    hardware: int = ARPHRD_ETHER
    mac: bytes = b""
    master: int = 0
    kind: str = ""
    slave_kind: str = ""

    @property
    def carrier(self) -> bool:
        """The cable is in."""
        return bool(self.flags & IFF_LOWER_UP)


@dataclass(frozen=True, slots=True)
class OnLink:
    """A connected route: `network` is reached through interface `index` without a router."""

    index: int
    network: ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All interfaces, connected routes and link-local addresses at one moment."""

    links: tuple[Link, ...] = ()
    on_link: tuple[OnLink, ...] = ()
    link_local: tuple[tuple[int, bytes], ...] = ()  # (interface index, IPv6 link-local address)


def refusal(link: Link, by_index: Mapping[int, Link]) -> str:
    """Why `link` is not used; "" if it is."""
    if link.flags & IFF_LOOPBACK:
        return LOOPBACK
    if link.kind in VIRTUAL_KINDS:
        return VIRTUAL
    if not link.flags & IFF_UP:
        return DOWN
    if link.hardware != ARPHRD_ETHER or len(link.mac) != 6 or link.mac == bytes(6):
        return NOT_ETHERNET
    if not link.flags & IFF_BROADCAST:
        return NO_BROADCAST
    if link.flags & IFF_NOARP:
        return NO_ARP
    if link.master:
        master = by_index.get(link.master)
        # A VRF is a routing domain, not a switch: its members keep their own layer 2.
        if "vrf" not in (link.slave_kind, master.kind if master else ""):
            return ENSLAVED
    if any(fnmatchcase(link.name, pattern) for pattern in VIRTUAL_NAMES):
        return VIRTUAL
    return ""


def judge(links: Iterable[Link]) -> dict[int, str]:
    """Interface index -> why it is refused, "" if it is used."""
    by_index = {link.index: link for link in links}
    return {index: refusal(link, by_index) for index, link in by_index.items()}


def matches(link: Link, reason: str, interfaces: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a group with these patterns is announced on `link`, refused for `reason` ("": not refused)."""
    if reason not in ("", VIRTUAL) or any(fnmatchcase(link.name, pattern) for pattern in exclude):
        return False
    if reason == VIRTUAL:
        return link.name in interfaces and link.kind not in VIRTUAL_KINDS
    return not interfaces or any(fnmatchcase(link.name, pattern) for pattern in interfaces)


class Routes:
    """Connected routes by interface, asked by packed address."""

    def __init__(self, on_link: Iterable[OnLink] = ()) -> None:
        self._by_length: dict[tuple[int, int], dict[int, set[int]]] = {}
        for route in on_link:
            bits = route.network.max_prefixlen
            prefix = int(route.network.network_address) >> (bits - route.network.prefixlen)
            table = self._by_length.setdefault((bits, route.network.prefixlen), {})
            table.setdefault(prefix, set()).add(route.index)

    def interfaces(self, ip: bytes) -> frozenset[int]:
        """The indexes of the interfaces at which `ip` (4 or 16 octets) is on-link."""
        bits, value = 8 * len(ip), int.from_bytes(ip, "big")
        found: set[int] = set()
        for (width, length), table in self._by_length.items():
            if width == bits:
                found |= table.get(value >> (bits - length), set())
        return frozenset(found)


@functools.lru_cache(maxsize=16384)
def packed(address: str) -> bytes:
    """4 or 16 octets. Raises ValueError for text that is no address. Cached: the same texts come again and again."""
    return ipaddress.ip_address(address).packed


def text(ip: bytes) -> str:
    """RFC 5952, or a dotted quad."""
    return str(ipaddress.ip_address(ip))
