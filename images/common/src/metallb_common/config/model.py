"""The configuration as frozen values, every default filled in.

Names follow the document's keys with `_` for `-`. Durations are whole seconds unless the name says
`_ms`. Everything a document can say is here, also what a process does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from metallb_common.net.ranges import Address, AddressRange
from metallb_common.net.selectors import LabelSelector

Protocol = Literal["layer2", "bgp"]
Spread = Literal["hash", "even"]


@dataclass(frozen=True, slots=True, order=True)
class Community:
    """A BGP community: standard (RFC 1997, two 16-bit parts) or large (RFC 8092, three 32-bit)."""

    parts: tuple[int, ...]

    @property
    def large(self) -> bool:
        return len(self.parts) == 3

    def __str__(self) -> str:
        return ("large:" if self.large else "") + ":".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class BgpAdvertisement:
    """How a pool's addresses are put into routes."""

    aggregation_length: int = 32
    aggregation_length_v6: int = 128
    localpref: int = 0  # sent to iBGP peers only (RFC 4271 section 5.1.5)
    communities: tuple[Community, ...] = ()  # sorted, aliases resolved
    peers: tuple[str, ...] = ()  # peer names; empty: all
    node_selectors: tuple[LabelSelector, ...] = ()
    service_selectors: tuple[LabelSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer2Advertisement:
    """Who announces a layer 2 pool, on which interfaces, for which Services. Patterns are globs."""

    node_selectors: tuple[LabelSelector, ...] = ()
    interfaces: tuple[str, ...] = ()  # empty: all
    exclude_interfaces: tuple[str, ...] = ()
    service_selectors: tuple[LabelSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceAllocation:
    """Which Services a pool serves, and how early it is tried."""

    priority: int = 0  # lower first; 0 means last
    namespaces: tuple[str, ...] = ()
    namespace_selectors: tuple[LabelSelector, ...] = ()
    service_selectors: tuple[LabelSelector, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """An address pool. Guarantee: `addresses` is merged, sorted and overlaps no other pool's."""

    name: str
    protocol: Protocol
    addresses: tuple[AddressRange, ...]
    avoid_buggy_ips: bool = False  # never give out IPv4 addresses that end in .0 or .255
    auto_assign: bool = True
    disabled: bool = False  # keeps what is given, gives nothing new
    exclude_addresses: tuple[AddressRange, ...] = ()  # never given out
    service_allocation: ServiceAllocation = ServiceAllocation()
    bgp_advertisements: tuple[BgpAdvertisement, ...] = ()  # at least one when protocol is bgp
    l2_advertisements: tuple[Layer2Advertisement, ...] = ()
    l2_spread: Spread = "hash"  # over the nodes that may announce: each address by itself, or all of them evenly

    def contains(self, address: Address) -> bool:
        """Whether the address lies in the pool, excluded or not. O(ranges)."""
        return any(address in r for r in self.addresses)


@dataclass(frozen=True, slots=True)
class BfdProfile:
    """Timers of BFD sessions (RFC 5880). None: the protocol's default."""

    name: str
    receive_interval_ms: int = 300
    transmit_interval_ms: int = 300
    detect_multiplier: int = 3
    echo_interval_ms: int = 50
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: int = 254


@dataclass(frozen=True, slots=True)
class Peer:
    """A BGP neighbour. `peer_asn` may be resolved on connect ("internal", "external")."""

    name: str  # given, or made from the address: unique in the document
    my_asn: int
    peer_asn: int | Literal["internal", "external"]
    peer_address: Address
    peer_port: int = 179
    source_address: Address | None = None
    hold_time: int = 90  # seconds; 0 turns keepalives off
    keepalive_time: int = 30  # seconds
    connect_time: int | None = None  # seconds between attempts
    router_id: Address | None = None
    password: str = field(default="", repr=False)
    password_secret: str = ""  # name of a Secret in the own namespace
    password_secret_key: str = "password"
    node_selectors: tuple[LabelSelector, ...] = ()
    bfd_profile: str = ""
    ebgp_multihop: bool = False
    local_asn: int | None = None
    graceful_restart: bool = False
    graceful_restart_time: int = 15  # seconds, at most 15
    address_families: tuple[Literal["ipv4", "ipv6"], ...] = ()  # empty: both, as negotiated
    gtsm: bool = False
    listen: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid document. Guarantee: every reference resolves, no pool overlaps another."""

    pools: tuple[Pool, ...] = ()  # in document order
    peers: tuple[Peer, ...] = ()
    bfd_profiles: tuple[BfdProfile, ...] = ()
    communities: Mapping[str, Community] = field(default_factory=lambda: MappingProxyType({}))

    def pool(self, name: str) -> Pool | None:
        return next((p for p in self.pools if p.name == name), None)
