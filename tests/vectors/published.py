"""The corpus of configurations that people published, with what MetalLB 0.12.1 made of each.

It lies beside some checkouts and is not part of this repository; without it there are no cases.
"""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

from metallb_common.config.durations import format_duration
from metallb_common.config.model import Config, Peer, Pool
from metallb_common.net.ranges import from_network, merge
from metallb_common.net.selectors import LabelSelector

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"


def expected(name: str) -> list[dict[str, Any]]:
    """The records of one expectation file; empty when the corpus is not there."""
    path = CORPUS / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def theirs(record: dict[str, Any]) -> dict[str, Any]:
    """What 0.12.1 understood, in a form that does not depend on order or notation."""
    pools = {
        p["name"]: {
            "protocol": p["protocol"],
            "addresses": [str(r) for r in merge(from_network(ipaddress.ip_network(c)) for c in p["cidrs"])],
            "auto-assign": p["auto-assign"],
            "avoid-buggy-ips": p["avoid-buggy-ips"],
            "size": p["size"],
            "advertisements": sorted(map(_advertisement, p.get("advertisements", []))),
        }
        for p in record["pools"]
    }
    return {
        "pools": pools,
        "peers": sorted(json.dumps(_their_peer(p), sort_keys=True) for p in record["peers"]),
        "bfd": sorted(json.dumps(b, sort_keys=True) for b in record.get("bfd", [])),
    }


def ours(config: Config) -> dict[str, Any]:
    """The same of our model."""
    return {
        "pools": {p.name: _our_pool(p) for p in config.pools},
        "peers": sorted(json.dumps(_our_peer(p), sort_keys=True) for p in config.peers),
        "bfd": sorted(json.dumps(_our_bfd(b), sort_keys=True) for b in config.bfd_profiles),
    }


def _advertisement(a: dict[str, Any]) -> str:
    return json.dumps({**a, "communities": sorted(a["communities"])}, sort_keys=True)


def _our_pool(pool: Pool) -> dict[str, Any]:
    size = sum(r.size for r in pool.addresses)
    if pool.avoid_buggy_ips:
        size = -1  # 0.12.1 counts these wrongly (its own gauge can be negative): not compared
    return {
        "protocol": pool.protocol,
        "addresses": [str(r) for r in pool.addresses],
        "auto-assign": pool.auto_assign,
        "avoid-buggy-ips": pool.avoid_buggy_ips,
        "size": str(size),
        "advertisements": sorted(
            _advertisement(
                {
                    "aggregation-length": a.aggregation_length,
                    "aggregation-length-v6": a.aggregation_length_v6,
                    "localpref": a.localpref,
                    "communities": [str(c) for c in a.communities],
                }
            )
            for a in pool.bgp_advertisements
        ),
    }


def _our_peer(peer: Peer) -> dict[str, Any]:
    out: dict[str, Any] = {
        "my-asn": peer.my_asn,
        "peer-asn": peer.peer_asn,
        "peer-address": str(peer.peer_address),
        "peer-port": peer.peer_port,
        "hold-time": format_duration(peer.hold_time * 10**9),
        "keepalive-time": format_duration(peer.keepalive_time * 10**9),
        "node-selectors": [_our_selector(s) for s in peer.node_selectors] or [""],
    }
    if peer.source_address:
        out["source-address"] = str(peer.source_address)
    if peer.router_id:
        out["router-id"] = str(peer.router_id)
    if peer.password:
        out["password"] = peer.password
    if peer.bfd_profile:
        out["bfd-profile"] = peer.bfd_profile
    if peer.ebgp_multihop:
        out["ebgp-multihop"] = True
    return out


def _their_peer(peer: dict[str, Any]) -> dict[str, Any]:
    out = {**peer, "node-selectors": [_their_selector(s) for s in peer["node-selectors"]]}
    out["peer-address"] = str(ipaddress.ip_address(out["peer-address"]))
    return out


def _our_selector(selector: LabelSelector) -> str:
    words = {"In": "in", "NotIn": "notin"}
    parts = []
    for r in selector.requirements:
        if r.operator in words:
            parts.append(f"{r.key} {words[r.operator]} ({','.join(r.values)})")
        else:
            parts.append(r.key if r.operator == "Exists" else f"!{r.key}")
    return ",".join(parts)


def _their_selector(text: str) -> str:
    return re.sub(r"([^,=()]+)=([^,]*)", r"\1 in (\2)", text)


_BFD_DEFAULTS = {
    "receive-interval": 300,
    "transmit-interval": 300,
    "detect-multiplier": 3,
    "echo-interval": 50,
    "echo-mode": False,
    "passive-mode": False,
    "minimum-ttl": 254,
}


def _our_bfd(profile: Any) -> dict[str, Any]:
    values = {
        "receive-interval": profile.receive_interval_ms,
        "transmit-interval": profile.transmit_interval_ms,
        "detect-multiplier": profile.detect_multiplier,
        "echo-interval": profile.echo_interval_ms,
        "echo-mode": profile.echo_mode,
        "passive-mode": profile.passive_mode,
        "minimum-ttl": profile.minimum_ttl,
    }
    given = {key: value for key, value in values.items() if value != _BFD_DEFAULTS[key]}
    return {"name": profile.name, **given}
