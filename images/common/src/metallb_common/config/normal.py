"""The model as plain JSON: every default filled in, passwords redacted, one notation for each thing.

Keys are the document's with `_` for `-`. Durations are seconds, BFD intervals milliseconds.
Addresses are the minimal list of CIDRs; IPv6 is written as in RFC 5952.
"""

from __future__ import annotations

from typing import Any

from metallb_common.config.errors import REDACTED
from metallb_common.config.model import (
    BfdProfile,
    BgpAdvertisement,
    Config,
    Layer2Advertisement,
    Peer,
    Pool,
)
from metallb_common.net.ranges import AddressRange
from metallb_common.net.selectors import LabelSelector

Json = dict[str, Any]


def normalise(config: Config) -> Json:
    """The whole configuration."""
    return {
        "pools": [_pool(p) for p in config.pools],
        "peers": [_peer(p) for p in config.peers],
        "communities": {name: str(value) for name, value in sorted(config.communities.items())},
        "bfd_profiles": [_bfd(b) for b in config.bfd_profiles],
    }


def _cidrs(ranges: tuple[AddressRange, ...]) -> list[str]:
    return [str(network) for r in ranges for network in r.networks()]


def _selectors(selectors: tuple[LabelSelector, ...]) -> list[Json]:
    return [
        {
            "match_expressions": [
                {"key": r.key, "operator": r.operator, "values": list(r.values)} for r in s.requirements
            ]
        }
        for s in selectors
    ]


def _pool(pool: Pool) -> Json:
    allocation = pool.service_allocation
    return {
        "name": pool.name,
        "protocol": pool.protocol,
        "addresses": _cidrs(pool.addresses),
        "avoid_buggy_ips": pool.avoid_buggy_ips,
        "auto_assign": pool.auto_assign,
        "disabled": pool.disabled,
        "exclude_addresses": _cidrs(pool.exclude_addresses),
        "service_allocation": {
            "priority": allocation.priority,
            "namespaces": list(allocation.namespaces),
            "namespace_selectors": _selectors(allocation.namespace_selectors),
            "service_selectors": _selectors(allocation.service_selectors),
        },
        "bgp_advertisements": [_bgp(a) for a in pool.bgp_advertisements],
        "l2_advertisements": [_layer2(a) for a in pool.l2_advertisements],
        "l2_spread": pool.l2_spread,
    }


def _bgp(advertisement: BgpAdvertisement) -> Json:
    return {
        "aggregation_length": advertisement.aggregation_length,
        "aggregation_length_v6": advertisement.aggregation_length_v6,
        "localpref": advertisement.localpref,
        "communities": [str(c) for c in advertisement.communities],
        "peers": list(advertisement.peers),
        "node_selectors": _selectors(advertisement.node_selectors),
        "service_selectors": _selectors(advertisement.service_selectors),
    }


def _layer2(advertisement: Layer2Advertisement) -> Json:
    return {
        "node_selectors": _selectors(advertisement.node_selectors),
        "interfaces": list(advertisement.interfaces),
        "exclude_interfaces": list(advertisement.exclude_interfaces),
        "service_selectors": _selectors(advertisement.service_selectors),
    }


def _peer(peer: Peer) -> Json:
    secret = {"name": peer.password_secret, "key": peer.password_secret_key} if peer.password_secret else None
    return {
        "name": peer.name,
        "my_asn": peer.my_asn,
        "peer_asn": peer.peer_asn,
        "peer_address": str(peer.peer_address),
        "peer_port": peer.peer_port,
        "source_address": str(peer.source_address) if peer.source_address else None,
        "hold_time": peer.hold_time,
        "keepalive_time": peer.keepalive_time,
        "connect_time": peer.connect_time,
        "router_id": str(peer.router_id) if peer.router_id else None,
        "password": REDACTED if peer.password else None,
        "password_secret": secret,
        "node_selectors": _selectors(peer.node_selectors),
        "bfd_profile": peer.bfd_profile or None,
        "ebgp_multihop": peer.ebgp_multihop,
        "local_asn": peer.local_asn,
        "graceful_restart": {"enabled": peer.graceful_restart, "restart_time": peer.graceful_restart_time},
        "address_families": list(peer.address_families) or ["ipv4", "ipv6"],
        "gtsm": peer.gtsm,
        "listen": peer.listen,
    }


def _bfd(profile: BfdProfile) -> Json:
    return {
        "name": profile.name,
        "receive_interval": profile.receive_interval_ms,
        "transmit_interval": profile.transmit_interval_ms,
        "detect_multiplier": profile.detect_multiplier,
        "echo_interval": profile.echo_interval_ms,
        "echo_mode": profile.echo_mode,
        "passive_mode": profile.passive_mode,
        "minimum_ttl": profile.minimum_ttl,
    }
