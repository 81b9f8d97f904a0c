"""Who may announce what by layer 2: pure. Services that share an address, or hold two, are one group.

A group is announced by one node, so that an address is never on two and both addresses of a dual-stack
Service answer from one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metallb_common.config.model import Config
from metallb_common.net.ranges import Address
from metallb_speaker.cluster.eligible import Tiers
from metallb_speaker.cluster.verdict import Context, Verdict, judge
from metallb_speaker.cluster.view import ClusterView
from metallb_speaker.desired import AnnouncedAddress, Layer2Group


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def make_group(members: Mapping[str, Verdict]) -> Layer2Group | None:
    """The group of Services (by key) that hang together by their addresses; None when they have none.

    Services without endpoints are no part of it while another one has some; when none has, the group has
    no candidate, and says why.
    """
    with_addresses = {key: v for key, v in sorted(members.items()) if v.layer2}
    if not with_addresses:
        return None
    active = {key: v for key, v in with_addresses.items() if not v.reason}
    chosen = active or with_addresses
    holders: dict[str, list[str]] = {}
    for key, verdict in chosen.items():
        for placed in verdict.layer2:
            holders.setdefault(placed.ip, []).append(key)
    places = {p.ip: p for v in chosen.values() for p in v.layer2}
    addresses = tuple(
        AnnouncedAddress(ip, tuple(sorted(holders[ip])), places[ip].pool_name)
        for ip in sorted(holders, key=lambda ip: _order(places[ip].address))
    )
    # The first address of each Service; of several the lowest, IPv4 first: the same on every node, and
    # for a Service alone the one that 0.12 elects on.
    key = min((v.layer2[0] for v in chosen.values()), key=lambda p: _order(p.address)).ip
    nodes = _common([v.nodes for v in active.values()])
    return Layer2Group(
        key=key,
        addresses=addresses,
        candidates=nodes.candidates,
        fallback=nodes.fallback,
        last=nodes.last,
        preferred=next((v.preferred for v in active.values() if v.preferred), ""),
        interfaces=_union([v.interfaces for v in chosen.values()]),
        exclude_interfaces=_intersection([v.exclude_interfaces for v in chosen.values()]),
        spread=next((v.universe for v in active.values() if v.universe), ()),
        reason="" if nodes.candidates else next((v.reason for v in chosen.values() if v.reason), "notOwner"),
    )


def _common(all_tiers: list[Tiers]) -> Tiers:
    """Nodes good for all Services of a group; where there is none, those of the first Service."""
    if not all_tiers:
        return Tiers()
    first = all_tiers[0]
    if all(t == first for t in all_tiers):
        return first
    candidates = set(first.candidates).intersection(*(t.candidates for t in all_tiers))
    everybody = [t.candidates + t.fallback + t.last for t in all_tiers]
    allowed = set(everybody[0]).intersection(*everybody)
    if not allowed:
        return first
    last = allowed.intersection(name for t in all_tiers for name in t.last)
    levels = [tuple(sorted(level)) for level in (candidates, allowed - candidates - last, last) if level]
    first_level, second, third = (*levels, (), ())[:3]
    return Tiers(first_level, second, third)


def _union(globs: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Empty means all."""
    return tuple(sorted({g for entry in globs for g in entry})) if all(globs) else ()


def _intersection(globs: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted(set(globs[0]).intersection(*globs))) if globs else ()


def components(addresses: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """Services (key -> addresses) that hang together by shared addresses, each set once."""
    holders: dict[str, list[str]] = {}
    for service, ips in addresses.items():
        for ip in ips:
            holders.setdefault(ip, []).append(service)
    out, seen = [], set[str]()
    for service in addresses:
        if service in seen:
            continue
        queue, found = [service], {service}
        while queue:
            for ip in addresses[queue.pop()]:
                for other in holders[ip]:
                    if other not in found:
                        found.add(other)
                        queue.append(other)
        seen |= found
        out.append(found)
    return out


def decide(config: Config, view: ClusterView) -> list[Layer2Group]:
    """Everything at once. The engine gives the same, a change at a time."""
    context = Context(config, view)
    verdicts = {key: judge(context, service) for key, service in view.services.items()}
    return groups_of(verdicts)


def groups_of(verdicts: Mapping[str, Verdict]) -> list[Layer2Group]:
    """The groups of all these Services, by key.

    Services that are not announced hold nothing together: they join a group only for its reason.
    """
    out: dict[str, Layer2Group] = {}
    active = {key: [p.ip for p in v.layer2] for key, v in verdicts.items() if v.layer2 and not v.reason}
    for found in components(active):
        group = make_group({key: verdicts[key] for key in found})
        if group:
            out[group.key] = group
    taken = {a.ip for group in out.values() for a in group.addresses}
    idle = {
        key: ips
        for key, v in verdicts.items()
        if v.reason and (ips := [p.ip for p in v.layer2]) and not taken.intersection(ips)
    }
    for found in components(idle):
        group = make_group({key: verdicts[key] for key in found})
        if group:
            out[group.key] = group
    return [out[key] for key in sorted(out)]
