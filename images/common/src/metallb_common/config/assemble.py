"""Checked values -> the frozen model, with every rule that spans more than one key.

What is here, no schema can say: references, duplicates, overlaps, sums. Each rule's reason begins
with the words of contract section 5 where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from types import MappingProxyType

from metallb_common.config.errors import hushed
from metallb_common.config.model import BfdProfile, Community, Config, Pool
from metallb_common.config.peers import PeerBuilder
from metallb_common.config.pools import PoolBuilder
from metallb_common.config.report import Report, Values
from metallb_common.config.selectors import Selectors
from metallb_common.config.structure import shown
from metallb_common.net.ranges import AddressRange


def assemble(values: Values, report: Report) -> Config:
    """The configuration; meaningful only if the report holds no error afterwards."""
    communities: MappingOf[str, Community] = MappingProxyType(values.get("bgp-communities") or {})
    profiles = _bfd_profiles(values.get("bfd-profiles") or [], report)
    selectors = Selectors(report)
    peers = PeerBuilder(report, selectors, profiles).build(values.get("peers") or [])
    builder = PoolBuilder(report, selectors, communities, frozenset(p.name for p in peers))
    pools = builder.build(values.get("address-pools") or [])
    _names_unique(pools, report)
    _no_overlap(values.get("address-pools") or [], report)
    if not peers and any(p.protocol == "bgp" for p in pools):
        first = next(i for i, p in enumerate(pools) if p.protocol == "bgp")
        report.warn(
            ("address-pools", first, "protocol"),
            f"pool {shown(pools[first].name)} is announced by BGP, but there are no peers",
            "add the routers to peers",
        )
    return Config(pools, peers, tuple(profiles.values()), communities)


def _bfd_profiles(raw: list[Values], report: Report) -> dict[str, BfdProfile]:
    out: dict[str, BfdProfile] = {}
    for i, item in enumerate(raw):
        name = item["name"]
        if name in out:
            report.error(
                ("bfd-profiles", i, "name"),
                f"found duplicate bfd profile name {hushed(name)}",
                "give each profile its own name",
            )
        out[name] = BfdProfile(
            name=name,
            receive_interval_ms=item.get("receive-interval", 300),
            transmit_interval_ms=item.get("transmit-interval", 300),
            detect_multiplier=item.get("detect-multiplier", 3),
            echo_interval_ms=item.get("echo-interval", 50),
            echo_mode=item.get("echo-mode", False),
            passive_mode=item.get("passive-mode", False),
            minimum_ttl=item.get("minimum-ttl", 254),
        )
    return out


def _names_unique(pools: tuple[Pool, ...], report: Report) -> None:
    seen: dict[str, int] = {}
    for i, pool in enumerate(pools):
        first = seen.setdefault(pool.name, i)
        if first != i:
            report.error(
                ("address-pools", i, "name"),
                f"duplicate definition of pool {shown(pool.name)}",
                f"address-pools[{first}] has the same name: rename one, or join their addresses",
            )


def _no_overlap(raw: list[Values], report: Report) -> None:
    """Neighbours in address order: O(n log n). The entry that comes later in the document is blamed."""
    entries: list[tuple[AddressRange, int, int]] = [
        (entry[0], i, j) for i, pool in enumerate(raw) for j, entry in enumerate(pool["addresses"])
    ]
    entries.sort(key=lambda e: (e[0].version, e[0].first, e[0].last))
    widest: tuple[AddressRange, int, int] | None = None
    for entry in entries:
        if widest is not None and widest[0].overlaps(entry[0]):
            old, new = sorted((widest, entry), key=lambda e: e[1:])
            report.error(
                ("address-pools", new[1], "addresses", new[2]),
                f"CIDR {shown(raw[new[1]]['addresses'][new[2]][1])} in pool {shown(raw[new[1]]['name'])} overlaps with "
                f"already defined CIDR {shown(raw[old[1]]['addresses'][old[2]][1])}",
                f"it is in address-pools[{old[1]}].addresses[{old[2]}]: an address belongs to one entry of one pool",
            )
        if widest is None or widest[0].version != entry[0].version or entry[0].last > widest[0].last:
            widest = entry
