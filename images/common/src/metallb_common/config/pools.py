"""Checked values -> pools, with what spans several keys of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metallb_common.config.communities import WELL_KNOWN, parse_community
from metallb_common.config.errors import Path
from metallb_common.config.model import BgpAdvertisement, Community, Layer2Advertisement, Pool, ServiceAllocation
from metallb_common.config.report import Report, Values
from metallb_common.config.selectors import Selectors
from metallb_common.config.structure import shown
from metallb_common.net.ranges import AddressRange, merge

#: Communities of one route at most: 4,096 octets (RFC 4271 section 4.1) have room for 300 large ones of 12 octets, and
#: for all else that belongs to the route.
MAX_COMMUNITIES = 300
_DEFAULT_BGP = (BgpAdvertisement(),)
_ALL_SERVICES = ServiceAllocation()


class PoolBuilder:
    """Builds the pools of one document."""

    def __init__(
        self, report: Report, selectors: Selectors, communities: Mapping[str, Community], peers: frozenset[str]
    ) -> None:
        self.report = report
        self.selectors = selectors
        self.communities = communities
        self.peers = peers

    def build(self, raw: list[Values]) -> tuple[Pool, ...]:
        return tuple(self._pool(item, ("address-pools", i)) for i, item in enumerate(raw))

    def _pool(self, raw: Values, path: Path) -> Pool:
        protocol = raw["protocol"]
        bgp = raw.get("bgp-advertisements") or []
        layer2 = raw.get("l2-advertisements") or []
        if protocol == "layer2" and bgp:
            self.report.error(
                (*path, "bgp-advertisements"),
                "cannot have bgp-advertisements configuration element in a layer2 address pool",
                "remove it, or write protocol: bgp",
            )
        if protocol == "bgp" and layer2:
            self.report.error(
                (*path, "l2-advertisements"),
                "cannot have l2-advertisements configuration element in a bgp address pool",
                "remove it, or write protocol: layer2",
            )
        if protocol == "bgp" and "l2-spread" in raw:
            self.report.error(
                (*path, "l2-spread"),
                "cannot have l2-spread configuration element in a bgp address pool",
                "remove it, or write protocol: layer2",
            )
        addresses = merge(entry[0] for entry in raw["addresses"])
        allocation = raw.get("service-allocation")
        return Pool(
            name=raw["name"],
            protocol=protocol,
            addresses=addresses,
            avoid_buggy_ips=raw.get("avoid-buggy-ips", False),
            auto_assign=raw.get("auto-assign", True),
            disabled=raw.get("disabled", False),
            exclude_addresses=self._excluded(raw, addresses, path),
            service_allocation=self._allocation(allocation, (*path, "service-allocation"))
            if allocation
            else _ALL_SERVICES,
            bgp_advertisements=self._bgp(bgp, raw, path) if protocol == "bgp" else (),
            l2_advertisements=self._layer2(layer2, (*path, "l2-advertisements")) if layer2 else (),
            l2_spread=raw.get("l2-spread", "hash"),
        )

    def _excluded(self, raw: Values, addresses: tuple[AddressRange, ...], path: Path) -> tuple[AddressRange, ...]:
        entries = raw.get("exclude-addresses")
        if not entries:
            return ()
        for i, (excluded, text) in enumerate(entries):
            if not any(excluded.overlaps(r) for r in addresses):
                self.report.warn(
                    (*path, "exclude-addresses", i),
                    f"{shown(text)} is not in pool {shown(raw['name'])}: nothing to exclude",
                )
        excluded = merge(entry[0] for entry in entries)
        if all(
            any(e.version == a.version and e.first <= a.first and a.last <= e.last for e in excluded) for a in addresses
        ):
            self.report.warn((*path, "exclude-addresses"), f"it excludes every address of pool {shown(raw['name'])}")
        return excluded

    def _allocation(self, raw: Values, path: Path) -> ServiceAllocation:
        return ServiceAllocation(
            priority=raw.get("priority", 0),
            namespaces=tuple(raw.get("namespaces") or ()),
            namespace_selectors=self.selectors.build(raw.get("namespace-selectors"), (*path, "namespace-selectors")),
            service_selectors=self.selectors.build(raw.get("service-selectors"), (*path, "service-selectors")),
        )

    def _layer2(self, raw: list[Values], path: Path) -> tuple[Layer2Advertisement, ...]:
        return tuple(
            Layer2Advertisement(
                node_selectors=self.selectors.build(item.get("node-selectors"), (*path, i, "node-selectors")),
                interfaces=tuple(item.get("interfaces") or ()),
                exclude_interfaces=tuple(item.get("exclude-interfaces") or ()),
                service_selectors=self.selectors.build(item.get("service-selectors"), (*path, i, "service-selectors")),
            )
            for i, item in enumerate(raw)
        )

    def _bgp(self, raw: list[Values], pool: Values, path: Path) -> tuple[BgpAdvertisement, ...]:
        if not raw:
            return _DEFAULT_BGP
        seen: dict[str, int] = {}
        out = []
        for i, item in enumerate(raw):
            here: Path = (*path, "bgp-advertisements", i)
            first = seen.setdefault(repr(sorted(item.items(), key=lambda pair: pair[0])), i)
            if first != i:
                self.report.error(
                    here,
                    f"duplicate definition of bgpadvertisements: the same as bgp-advertisements[{first}]",
                    "remove one of the two",
                )
            out.append(self._advertisement(item, pool, here))
        self._merged(out, path)
        return tuple(out)

    def _merged(self, advertisements: list[BgpAdvertisement], path: Path) -> None:
        """Where several advertise one prefix to one peer, the route has the communities of all of them."""
        if sum(len(a.communities) for a in advertisements) <= MAX_COMMUNITIES:
            return
        named = sorted({name for a in advertisements for name in a.peers})
        for receiver in (*named, ""):  # "": any other peer
            for width in ("aggregation_length", "aggregation_length_v6"):
                together: dict[int, set[Community]] = {}
                for i, advertisement in enumerate(advertisements):
                    if advertisement.peers and receiver not in advertisement.peers:
                        continue
                    merged = together.setdefault(getattr(advertisement, width), set())
                    merged.update(advertisement.communities)
                    if len(merged) > MAX_COMMUNITIES:
                        self.report.error(
                            (*path, "bgp-advertisements", i, "communities"),
                            f"with those of the advertisements before it a route may have {len(merged)} communities: "
                            f"more than {MAX_COMMUNITIES} do not fit into one BGP message",
                            "list fewer, or give the advertisements different peers or aggregation lengths",
                        )
                        return

    def _advertisement(self, raw: Values, pool: Values, path: Path) -> BgpAdvertisement:
        lengths = raw.get("aggregation-length", 32), raw.get("aggregation-length-v6", 128)
        for key, version, length in zip(("aggregation-length", "aggregation-length-v6"), (4, 6), lengths, strict=True):
            if key in raw:
                self._length_fits(length, version, pool, (*path, key))
        peers = tuple(raw.get("peers") or ())
        for i, name in enumerate(peers):
            if name not in self.peers:
                self.report.error(
                    (*path, "peers", i), f"there is no peer {shown(name)}", f"the peers are {_some(self.peers)}"
                )
        return BgpAdvertisement(
            aggregation_length=lengths[0],
            aggregation_length_v6=lengths[1],
            localpref=raw.get("localpref", 0),
            communities=self._communities(raw.get("communities") or [], path),
            peers=peers,
            node_selectors=self.selectors.build(raw.get("node-selectors"), (*path, "node-selectors")),
            service_selectors=self.selectors.build(raw.get("service-selectors"), (*path, "service-selectors")),
        )

    def _length_fits(self, length: int, version: int, pool: Values, path: Path) -> None:
        """An entry none of whose CIDRs is as wide as the route would be is refused."""
        for entry, text in pool["addresses"]:
            if entry.version != version:
                continue
            widest = min(network.prefixlen for network in entry.networks())
            if length < widest:
                self.report.error(
                    path,
                    f"invalid aggregation length {length}: prefix {widest} in this pool is more specific than the "
                    f"aggregation length for addresses {text}",
                    f"write {widest} or more, or widen the addresses to a /{length}",
                )
                return

    def _communities(self, raw: list[str], path: Path) -> tuple[Community, ...]:
        out: set[Community] = set()
        seen: set[str] = set()
        for i, text in enumerate(raw):
            here: Path = (*path, "communities", i)
            if text in seen:
                self.report.error(here, f"duplicate definition of community {shown(text)}", "remove one of the two")
                continue
            seen.add(text)
            known = self.communities.get(text)
            if known is None:
                try:
                    known = parse_community(text)
                except ValueError as error:
                    fix = f"define it in bgp-communities; defined are {_some(self.communities)}"
                    if text.lower().replace("_", "-") in WELL_KNOWN:
                        fix = f"it is spelt {text.lower().replace('_', '-')}"
                    self.report.error(here, f"invalid community {shown(text)} in BGP advertisement: {error}", fix)
                    continue
            out.add(known)
        return tuple(sorted(out))


def _some(names: Any) -> str:
    """The first few names, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "") if ordered else "none"
