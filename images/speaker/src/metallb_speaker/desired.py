"""What the cluster half tells the announcer, as frozen values: who MAY announce what, and how.

The announcer alone decides who DOES (`announcer.elect`), from these and the live members.
A `Desired` is a set of items by key; the stream carries snapshots and deltas of it (`stream.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

#: Version of the stream's messages. Both halves are of one image, but a pod can be mid-upgrade.
STREAM_VERSION = 1


@dataclass(frozen=True, slots=True)
class AnnouncedAddress:
    """One address and the Services that hold it (several share it by a sharing key)."""

    ip: str  # RFC 5952 / dotted quad
    services: tuple[str, ...]  # namespace/name, sorted
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Layer2Group:
    """Addresses that must be announced by one and the same node: all of a Service, all that are shared.

    `key` is the address the group is elected on: the first address of a dual-stack Service.
    """

    key: str
    addresses: tuple[AnnouncedAddress, ...]
    candidates: tuple[str, ...]  # names of the nodes that may announce, sorted; empty: nobody
    fallback: tuple[str, ...] = ()  # sorted; elected among only while no candidate is alive (cordoned, NotReady)
    last: tuple[str, ...] = ()  # sorted; likewise, while none of the fallback is alive, either (NotReady)
    preferred: str = ""  # a node that goes first while it is alive and a candidate
    interfaces: tuple[str, ...] = ()  # globs, on this node; empty: all
    exclude_interfaces: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()  # all nodes that its pool is spread evenly over, sorted; empty: by hash alone
    reason: str = ""  # why there is no candidate: a serviceWithdrawn reason (contract section 4)

    @property
    def nodes(self) -> tuple[str, ...]:
        """All that may announce it, in whatever case."""
        return self.candidates + self.fallback + self.last


@dataclass(frozen=True, slots=True)
class BgpRoute:
    """One prefix to advertise to peers. Same prefix and attributes are merged over Services."""

    key: str  # unique: prefix, plus a digest of the attributes
    prefix: str
    localpref: int
    communities: tuple[tuple[int, ...], ...]
    peers: tuple[str, ...]  # names of peers; empty: all
    addresses: tuple[AnnouncedAddress, ...]


@dataclass(frozen=True, slots=True)
class BgpPeer:
    """One BGP session of this node (node selectors have been applied already)."""

    key: str  # where the session goes to, whatever the peer is called
    my_asn: int
    peer_asn: int | Literal["internal", "external"]
    address: str
    port: int
    source: str
    hold_time: int
    keepalive_time: int
    connect_time: int
    router_id: str
    password: str = field(default="", repr=False)
    bfd_profile: str = ""
    multihop: bool = False
    local_asn: int = 0
    graceful_restart: int = 0  # seconds; 0: off
    address_families: tuple[str, ...] = ()
    gtsm: bool = False
    listen: bool = False
    name: str = ""  # as users know it, and as `BgpRoute.peers` names it; empty: the key

    @property
    def called(self) -> str:
        return self.name or self.key


@dataclass(frozen=True, slots=True)
class BfdTimers:
    """One BFD profile of the configuration."""

    key: str
    receive_interval_ms: int
    transmit_interval_ms: int
    detect_multiplier: int
    echo_interval_ms: int
    echo_mode: bool
    passive_mode: bool
    minimum_ttl: int


@dataclass(frozen=True, slots=True)
class Member:
    """Another speaker: the membership's seed list, and what the cluster itself thinks of it.

    `alive` is the fallback's view (node Ready and speaker pod Ready), used while UDP is blocked.
    """

    key: str  # node name
    addresses: tuple[str, ...]  # of the speaker pod; the node's own
    alive: bool


Item = Layer2Group | BgpRoute | BgpPeer | BfdTimers | Member
KINDS: dict[str, type] = {t.__name__: t for t in (Layer2Group, BgpRoute, BgpPeer, BfdTimers, Member)}


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything, by kind and key. `version` grows with each change; 0 means nothing known yet."""

    version: int = 0
    items: Mapping[tuple[str, str], Item] = field(
        default_factory=lambda: MappingProxyType({})
    )  # (kind name, key) -> item
