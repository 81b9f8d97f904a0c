"""What a Service is entitled to, whatever the protocol: its addresses in pools, or why there are none. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from metallb_common.config.model import Config, Layer2Advertisement, Pool
from metallb_common.kube.views import PREFIXES, Service
from metallb_common.net.ranges import Address
from metallb_common.net.selectors import any_matches
from metallb_speaker.cluster.eligible import NOBODY, Tiers, speaker_nodes, tiers
from metallb_speaker.cluster.pools import PoolIndex, parse_address
from metallb_speaker.cluster.view import ClusterView

#: Asks for a node: `metallb.io/announce-from-node: NODE`. It goes first while it may announce at all.
FROM_NODE = "announce-from-node"


@dataclass(frozen=True, slots=True)
class Placed:
    """An address of a Service and the pool that it lies in."""

    ip: str  # as Kubernetes may spell it, normalised
    address: Address
    pool_name: str
    pool: Pool = field(compare=False)  # thousands of ranges may be in it; the name tells pools apart


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one Service comes to. `reason` (a serviceWithdrawn reason) says why it is not announced; "" if it is.

    With a reason, `layer2` may still name addresses: those that would be announced otherwise.
    """

    layer2: tuple[Placed, ...] = ()
    bgp: tuple[Placed, ...] = ()
    reason: str = ""
    nodes: Tiers = NOBODY  # for layer 2
    preferred: str = ""
    interfaces: tuple[str, ...] = ()
    exclude_interfaces: tuple[str, ...] = ()
    universe: tuple[str, ...] = ()  # all nodes that its pool is spread evenly over; empty: it is not


@dataclass(slots=True)
class Context:
    """One configuration with one state of the nodes, and what was computed from them. Make anew when either changes."""

    config: Config
    view: ClusterView
    pools: PoolIndex = field(init=False)
    speakers: list[str] = field(init=False)
    lingering: list[str] = field(init=False)  # the speakers, and those that ran until just now
    memo: dict[tuple[Layer2Advertisement | None, ...], frozenset[str]] = field(default_factory=dict)
    universes: dict[tuple[Layer2Advertisement | None, ...], frozenset[str]] = field(default_factory=dict)
    tiers: dict[tuple[frozenset[str], bool], Tiers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pools = PoolIndex(self.config)
        self.speakers = speaker_nodes(self.view)
        self.lingering = speaker_nodes(self.view, lingering=True)


def place(context: Context, service: Service) -> tuple[list[Placed], str]:
    """The Service's addresses that lie in pools, in its own order; and a reason when there are none."""
    if not service.ingress_ips:
        return [], "noIPAllocated"
    placed, reason = [], ""
    for text in service.ingress_ips:
        address = parse_address(text)
        pool = context.pools.find(address) if address else None
        if address is None:
            reason = reason or "invalidIP"
        elif pool is None:
            reason = reason or "ipNotAllowed"
        else:
            placed.append(Placed(str(address), address, pool.name, pool))
    return placed, "" if placed else reason


def judge(context: Context, service: Service) -> Verdict:
    """What the Service is entitled to now."""
    placed, reason = place(context, service)
    layer2 = tuple(p for p in placed if p.pool.protocol == "layer2")
    bgp = tuple(p for p in placed if p.pool.protocol == "bgp")
    if reason:
        return Verdict(reason=reason)
    backends = context.view.backends(service.key)
    local = service.external_traffic_policy == "Local"
    if not backends.any:
        reason = "noEndpoints"
    elif local and not backends.nodes:
        reason = "noLocalEndpoints"
    if not layer2:
        return Verdict(bgp=bgp, reason=reason)
    advertisements = [_matching(p.pool, service) for p in layer2]
    nodes = _nodes(context, advertisements, context.speakers, context.memo)
    universe: tuple[str, ...] = ()
    if any(p.pool.l2_spread == "even" for p in layer2):
        universe = tuple(sorted(_nodes(context, advertisements, context.lingering, context.universes)))
    if local:
        nodes &= backends.nodes
    found = NOBODY
    if not reason:
        found = _tiers(context, nodes, mind_cordon=not local)
        if not found.candidates:
            reason = "noLocalEndpoints" if local else "notOwner"
    interfaces, excluded = _interfaces(context, [a for found in advertisements for a in found])
    return Verdict(layer2, bgp, reason, found, _preferred(service), interfaces, excluded, universe)


def _preferred(service: Service) -> str:
    for prefix in reversed(PREFIXES):
        value = service.annotations.get(prefix + FROM_NODE)
        if value:
            return value.strip()
    return ""


def _matching(pool: Pool, service: Service) -> list[Layer2Advertisement | None]:
    """The pool's advertisements for this Service; [None] when the pool leaves it open."""
    if not pool.l2_advertisements:
        return [None]
    return [a for a in pool.l2_advertisements if any_matches(a.service_selectors, service.labels)]


def _nodes(
    context: Context,
    advertisements: list[list[Layer2Advertisement | None]],
    names: list[str],
    memo: dict[tuple[Layer2Advertisement | None, ...], frozenset[str]],
) -> frozenset[str]:
    """Those of `names` that may announce all of the addresses, by the hard rules."""
    out: frozenset[str] | None = None
    for found in advertisements:
        key = tuple(found)
        nodes = memo.get(key)
        if nodes is None:
            nodes = memo[key] = frozenset(
                name
                for name in names
                if any(a is None or any_matches(a.node_selectors, context.view.nodes[name].labels) for a in found)
            )
        out = nodes if out is None else out & nodes
    return out or frozenset()


def _tiers(context: Context, nodes: frozenset[str], *, mind_cordon: bool) -> Tiers:
    found = context.tiers.get((nodes, mind_cordon))
    if found is None:
        view = context.view
        found = tiers(nodes, view.nodes, mind_cordon=mind_cordon, returning=view.steady.returning)
        context.tiers[nodes, mind_cordon] = found
    return found


def _interfaces(
    context: Context, advertisements: list[Layer2Advertisement | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Globs of interfaces to use and to leave out on this node: the union of what the advertisements allow."""
    node = context.view.nodes.get(context.view.node)
    mine = [a for a in advertisements if a is not None and node and any_matches(a.node_selectors, node.labels)]
    if not mine or None in advertisements:
        return (), ()
    use: tuple[str, ...] = ()
    if all(a.interfaces for a in mine):
        use = tuple(sorted({glob for a in mine for glob in a.interfaces}))
    leave = {
        glob
        for a in mine
        for glob in a.exclude_interfaces
        if all(glob in b.exclude_interfaces or (b.interfaces and glob not in b.interfaces) for b in mine)
    }
    return use, tuple(sorted(leave))
