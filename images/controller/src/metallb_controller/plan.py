"""What to do about one Service: a pure decision, from its view and the allocations.

The rule above all others: an address that works is not taken away because a wish cannot be met. The
wish is refused, with an event, and the address stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from metallb_common.kube.views import Service
from metallb_common.net.ranges import Address
from metallb_controller.allocator import Allocator, Refusal, Wish, quoted
from metallb_controller.pools import Client
from metallb_controller.sharing import Allocation, version_of
from metallb_controller.wishes import (
    FROM_POOL,
    SHARE,
    InvalidWish,
    Rules,
    backend_key,
    given,
    has_cluster_ip,
    one_per_family,
    parse_address,
    wish,
)


@dataclass(frozen=True, slots=True)
class Say:
    """An event on the Service. `type` is Normal or Warning."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision. `ingress` None: the Service is none of ours, its status stays as it is."""

    hold: Allocation | None
    ingress: tuple[str, ...] | None
    from_pool: str = ""  # value of the annotation; empty: none
    changes: tuple[Say, ...] = ()  # events of a change of the status; they come before it
    problems: tuple[Say, ...] = ()  # what stands in the way; said when it becomes true
    waiting: bool = False  # worth planning again when an address is freed
    signature: object = None  # waiting Services with the same one fail alike; None: unlike any other
    log: str = "noChange"  # the log's event, or clearAssignment's reason


def status_addresses(service: Service) -> tuple[Address, ...]:
    """The addresses of the status; what cannot be parsed is left out."""
    return tuple(a for a in map(parse_address, service.ingress_ips) if a is not None)


@dataclass(frozen=True, slots=True)
class Adopted:
    """What of a status can be the Service's; `lost` are addresses that somebody else has, and `why`."""

    hold: Allocation | None
    lost: tuple[Address, ...] = ()
    why: str = ""


def adopt(service: Service, allocator: Allocator, *, at_start: bool) -> Adopted:
    """The record of what the status says that this Service holds; nothing when it says nothing of ours.

    Judged by sharing alone, and each address by itself: of two, one may be lost and the other is kept.
    `at_start`, before anything new is given, sharers whose ports were edited apart keep what they have;
    later, a status that nobody here wrote gives no more right than a wish.
    """
    chosen: dict[int, Address] = {}
    for address in status_addresses(service):
        if allocator.table.find(address) is not None:
            chosen.setdefault(address.version, address)
    if not chosen or service.type != "LoadBalancer":
        return Adopted(None)
    asked = _bare_wish(service)
    refused = {a: r for a in chosen.values() if isinstance(r := allocator.join(asked, (a,), adopt=at_start), Refusal)}
    kept = [a for a in chosen.values() if a not in refused]
    found = allocator.join(asked, kept, adopt=at_start) if kept else None
    why = "; ".join(dict.fromkeys(r.text for r in refused.values()))
    return Adopted(None if isinstance(found, Refusal) else found, tuple(refused), why)


def current(service: Service, allocator: Allocator, held: Allocation) -> Allocation:
    """`held` by what the object says now: its ports at once, its keys as far as the other holders agree.

    Addresses do not change here. Whoever is planned next is judged by it, also when this Service's own
    plan comes later.
    """
    asked = _bare_wish(service)
    if (asked.ports, asked.keys, asked.either) == (held.ports, held.wanted, held.either):
        return held
    agreed = allocator.join(asked, held.addresses)
    if isinstance(agreed, Refusal):
        return dataclasses.replace(held, ports=asked.ports, wanted=asked.keys, either=asked.either)
    return agreed


def may_share(one: Service, other: Service) -> bool:
    """Whether two Services may show one address by what they say themselves."""
    a, b = _bare_wish(one), _bare_wish(other)
    both = one.type == other.type == "LoadBalancer"
    return both and bool(a.keys[0]) and a.keys == b.keys and not set(a.ports) & set(b.ports)


def without(service: Service, decided: Plan, stays: Allocation) -> Plan:
    """A step on the way to `decided`: gives up what it gives up, and takes nothing yet."""
    kept = [ip for ip in service.ingress_ips if parse_address(ip) in stays.addresses]
    pools = dict(zip(stays.addresses, stays.pools, strict=True))
    named = (pools[a] for a in map(parse_address, kept) if a is not None)
    text = f"Released IP {quoted(service.ingress_ips)}: it changes addresses with another service"
    say = Say("Normal", "ClearAssignment", text)
    if kept:
        say = Say("Normal", "IPAllocated", f"Assigned IP {quoted(kept)}")
    return Plan(decided.hold, tuple(kept), ",".join(dict.fromkeys(named)), (say,), log="exchange")


def _bare_wish(service: Service) -> Wish:
    """A wish that says nothing but who it is and with whom it would share."""
    backend = backend_key(service)
    asked = tuple((key, backend) for key in dict.fromkeys(given(service, SHARE).values()))
    keys, either = (("", backend), asked) if len(asked) > 1 else (asked[0] if asked else ("", backend), ())
    ports = tuple(dict.fromkeys(service.ports))
    client = Client(service.namespace, None, service.labels)
    return Wish(service.key, client, (), frozenset(), ports, keys, either=either)


def plan(
    service: Service,
    allocator: Allocator,
    rules: Rules,
    labels: Mapping[str, str] | None = None,
    *,
    lapsed: tuple[Address, ...] = (),
) -> Plan:
    """Decide. `labels` are those of the namespace, when known; `lapsed` it had from us and has no right to any more."""
    held = allocator.held.get(service.key)
    if service.type != "LoadBalancer":
        ours = held is not None or FROM_POOL in service.annotations
        ours = ours or any(allocator.table.find(a) for a in status_addresses(service))
        return _cleared(service, "notLoadBalancer") if ours else Plan(None, None)
    if held is None and (service.deleting or not rules.serve(service)):
        # What we gave and somebody else has by now must not stay; what others gave is not ours to clear: another
        # installation, with a class and pools of its own, writes the same annotation.
        shown, noted = status_addresses(service), FROM_POOL in service.annotations
        inside = any(map(allocator.table.find, shown))
        leftover = noted or inside if rules.serve(service) else noted and (inside or not set(shown).isdisjoint(lapsed))
        return _cleared(service, "notServed") if leftover else Plan(None, None)
    if not has_cluster_ip(service):
        return _cleared(service, "noClusterIPs")
    try:
        asked = wish(service, labels)
    except InvalidWish as problem:
        said = (Say("Warning", problem.reason, problem.message), *_apart(service, allocator, held))
        return _outcome(service, held, said, waiting=False, signature=None, log=problem.reason, why=problem.reason)
    if held is None:
        return _first(service, allocator, asked)
    return _again(service, allocator, asked, held)


def _first(service: Service, allocator: Allocator, asked: Wish) -> Plan:
    """A Service that holds nothing."""
    problems: list[Say] = []
    found = allocator.find(asked)
    claimed = status_addresses(service)
    if (bad := one_per_family(claimed)) is not None:
        problems.append(
            Say("Warning", "nolbIPsIPFamily", f"Failed to retrieve LBIPs IPFamily for {quoted(claimed)}: {bad}")
        )
    if isinstance(found, Refusal):
        problems.append(_failed(service, found.text))
        inside = any(map(allocator.table.find, claimed))
        why = "the service has no right to it any more" if inside else "not allowed in config"
        signature = _signature(asked, allocator)
        return _outcome(service, None, tuple(problems), waiting=True, signature=signature, log="allocateIPs", why=why)
    internal = _impossible(asked, found)
    if internal:
        return _outcome(service, None, (*problems, internal), waiting=False, signature=None, log="internalError")
    missing = len(found.addresses) < len(asked.families)
    return _outcome(service, found, tuple(problems), waiting=missing, signature=None, log="ipAllocated")


def _impossible(asked: Wish, found: Allocation) -> Say | None:
    """Checks of our own work: a defect must show, not spread."""
    if not found.addresses:
        return Say("Warning", "InternalError", "didn't allocate an IP but also did not fail")
    if not all(found.pools):
        return Say("Warning", "InternalError", "allocated an IP that has no pool")
    if not {version_of(a) for a in found.addresses} <= set(asked.families):
        got, want = ("/".join(f"ipv{v}" for v in vs) for vs in (map(version_of, found.addresses), asked.families))
        return Say("Warning", "InternalError", f"IP for wrong family assigned alloc {got} service family {want}")
    return None


def _again(service: Service, allocator: Allocator, asked: Wish, held: Allocation) -> Plan:
    """A Service that holds something: meet new wishes if they can be met, else keep."""
    keep = {a: p for a, p in zip(held.addresses, held.pools, strict=True) if version_of(a) in asked.families}
    if not keep:  # the family of the Service has changed
        return _first(service, allocator, asked)
    problems: list[Say] = []
    chosen: Allocation | None = None
    other_address = any(a not in keep for a in asked.requested)
    other_pool = bool(asked.pool) and not asked.requested and any(p != asked.pool for p in keep.values())
    missing = len(keep) < len(asked.families)
    alike_refused = False  # whether it is a refusal that does not depend on which addresses it keeps
    if other_address or other_pool or missing:
        found = allocator.find(asked, keep)
        if isinstance(found, Refusal):
            alike_refused = not asked.requested
            problems.append(_failed(service, found.text))
        elif not set(map(version_of, keep)) <= set(map(version_of, found.addresses)):
            problems.append(_failed(service, f'no available IPs in pool "{asked.pool}" for dual IPFamily'))
        elif any(a not in keep for a in found.addresses):
            internal = _impossible(asked, found)
            if internal:
                problems.append(internal)
            else:
                chosen = found
    log = "noChange"
    if chosen is not None:
        log = "differentIPRequested" if other_address else "differentPoolRequested" if other_pool else "ipAllocated"
        stays = [a for a in chosen.addresses if a in keep]
        agreed = allocator.join(asked, stays) if stays else chosen
        if isinstance(agreed, Refusal):  # the part that stays is shared under another key: all stays
            chosen, log = None, "noChange"
    if chosen is None:
        ordered = sorted(keep, key=lambda a: asked.families.index(version_of(a)))
        agreed = allocator.join(asked, ordered)
        if isinstance(agreed, Refusal):
            alike_refused = False
            problems.append(_failed(service, f"{agreed.text}: {_kept(allocator, asked, ordered)}"))
            pools = tuple(keep[a] for a in ordered)
            chosen = Allocation(tuple(ordered), pools, asked.ports, held.keys, asked.keys)
        else:
            chosen = agreed
    still_missing = len(chosen.addresses) < len(asked.families)
    alike = _signature(asked, allocator) if alike_refused or (still_missing and not problems) else None
    signature = None if alike is None else (alike, tuple(map(version_of, chosen.addresses)), chosen.pools)
    waiting = bool(problems) or still_missing
    return _outcome(service, chosen, tuple(problems), waiting=waiting, signature=signature, log=log)


def _kept(allocator: Allocator, asked: Wish, addresses: list[Address]) -> str:
    """What becomes of an address whose sharers no longer fit together."""
    text = f"it keeps {quoted(addresses)}"
    if isinstance(allocator.join(asked, addresses, adopt=True), Refusal):
        text += "; a restart of the controller gives the younger one another address"
    return text


def _apart(service: Service, allocator: Allocator, held: Allocation | None) -> tuple[Say, ...]:
    """What a restart will do to a Service that contradicts itself and shares by none of what it says."""
    agreed = allocator.join(_bare_wish(service), held.addresses, adopt=True) if held is not None else None
    if held is None or not isinstance(agreed, Refusal):
        return ()
    kept = f"it keeps {quoted(held.addresses)}; a restart of the controller takes it from the younger one"
    return (_failed(service, f"{agreed.text}: {kept}"),)


def _signature(asked: Wish, allocator: Allocator) -> object:
    """Two wishes with the same one, neither of which shares, are refused alike."""
    if asked.keys[0]:
        return None
    client = asked.client
    who = (client.namespace, tuple(sorted(client.labels.items()))) if allocator.table.selective else ()
    return (asked.families, asked.optional, asked.requested, asked.pool, who)


def _failed(service: Service, text: str) -> Say:
    return Say("Warning", "AllocationFailed", f'Failed to allocate IP for "{service.key}": {text}')


def _cleared(service: Service, reason: str) -> Plan:
    changes: tuple[Say, ...] = ()
    if service.ingress_ips:
        changes = (Say("Normal", "ClearAssignment", f"Released IP {quoted(service.ingress_ips)}: {reason}"),)
    return Plan(None, (), changes=changes, log=reason)


def _outcome(
    service: Service,
    hold: Allocation | None,
    problems: tuple[Say, ...],
    *,
    waiting: bool,
    signature: object,
    log: str,
    why: str = "not allowed in config",
) -> Plan:
    """The status that follows from what is held; equal sets keep the order that users know. `why` it has nothing."""
    shown = status_addresses(service)
    if hold is None:
        changes: tuple[Say, ...] = ()
        if service.ingress_ips:
            text = f"Released IP {quoted(service.ingress_ips)}: {why}"
            changes = (Say("Normal", "ClearAssignment", text),)
        return Plan(None, (), "", changes, problems, waiting, signature, log)
    same = len(shown) == len(hold.addresses) and set(shown) == set(hold.addresses)
    ingress = service.ingress_ips if same else tuple(map(str, hold.addresses))
    changes = () if same else (Say("Normal", "IPAllocated", f"Assigned IP {quoted(hold.addresses)}"),)
    from_pool = ",".join(dict.fromkeys(hold.pools))
    return Plan(hold, ingress, from_pool, changes, problems, waiting, signature, log)


def needs_write(service: Service, decided: Plan) -> bool:
    """Whether the object differs from the decision."""
    if decided.ingress is None:
        return False
    if tuple(decided.ingress) != service.ingress_ips:
        return True
    return decided.from_pool != service.annotations.get(FROM_POOL, "")
