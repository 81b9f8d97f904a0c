"""Turns changes of the view into changes of what is desired, at the cost of what changed.

The decisions themselves are the pure functions of `decide_layer2`, `decide_bgp` and `members`; the
result always equals deciding everything at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from metallb_common.obs import logs
from metallb_speaker.cluster import decide_bgp, decide_layer2
from metallb_speaker.cluster.decide_bgp import Route
from metallb_speaker.cluster.members import members
from metallb_speaker.cluster.verdict import Context, Placed, Verdict, judge
from metallb_speaker.cluster.view import Changes, ClusterView
from metallb_speaker.desired import Item
from metallb_speaker.stream import DesiredWriter, Key

_NOTHING = Verdict()


class Engine:
    """Keeps `writer` equal to what the view comes to."""

    def __init__(self, view: ClusterView, changes: Changes, writer: DesiredWriter) -> None:
        self._view, self._changes, self._writer = view, changes, writer
        self._context: Context | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._holders: dict[str, set[str]] = {}  # layer 2 address -> Services
        self._group_of: dict[str, str] = {}  # layer 2 address -> group key
        self._routes: dict[str, list[tuple[Route, str]]] = {}  # Service -> its routes, with the address
        self._wanted: dict[Route, dict[str, set[str]]] = {}
        self._pools: dict[str, str] = {}
        self._labels: Mapping[str, str] | None = None  # of this node
        self.reasons: dict[str, str] = {}  # Service -> why it is not announced (layer 2 or BGP)
        self.problems: tuple[str, ...] = ()
        self.unread: frozenset[str] = frozenset()  # BGP peers whose password is not known yet
        self.decided = 0  # Services judged, for tests and benchmarks

    def settle(self) -> bool:
        """Decide what has changed since the last call; False when nothing had."""
        services, everything = self._changes.take()
        if everything:
            self._context = Context(self._view.config, self._view) if self._view.config else None
            self._whole()
            services = services | self._view.services.keys() | self._verdicts.keys()
        elif not services:
            return False
        if self._context is not None:
            self._services(services)
        return True

    def _whole(self) -> None:
        """What does not depend on any Service."""
        put: list[Item] = list(members(self._view))
        config = self._view.config
        problems: list[str] = []
        if config is not None:
            sessions = decide_bgp.sessions(config, self._view)
            put += sessions.peers
            problems += sessions.problems
            put += decide_bgp.bfd_timers(config)
            self.unread = sessions.unread
        if self._view.nodes and self._view.node not in self._view.nodes:
            problems.append(f"node {self._view.node!r} does not exist: is --node-name right?")
        self.problems = tuple(problems)
        wanted = {(type(item).__name__, item.key) for item in put} | {("BgpPeer", key) for key in self.unread}
        kinds = ("Member",) if config is None else ("Member", "BgpPeer", "BfdTimers")
        gone = [key for key in self._writer.items if key[0] in kinds and key not in wanted]
        self._writer.change(put, gone, {f"BgpPeer {key}": self._gone(key) for kind, key in gone if kind == "BgpPeer"})
        node = self._view.nodes.get(self._view.node)
        if node is not None and node.labels != self._labels:
            if self._labels is not None:
                logs.info(event="nodeLabelsChanged", node=node.name, msg="the labels of this node have changed")
            self._labels = node.labels

    def _gone(self, key: str) -> str:
        """Why this node keeps no session with a peer any more."""
        config = self._view.config
        named = config is not None and decide_bgp.is_named(key, config)
        return "filteredByNodeSelector" if named else "removedFromConfig"

    def _services(self, keys: Iterable[str]) -> None:
        context = self._context
        if context is None:
            return
        why: dict[str, str] = {}
        touched: set[str] = set()  # layer 2 addresses whose groups are made anew
        routes: set[Route] = set()
        for key in keys:
            self.decided += 1
            service = self._view.services.get(key)
            before = self._verdicts.get(key, _NOTHING)
            after = (
                judge(context, service) if service else Verdict(reason=self._changes.left.pop(key, "serviceDeleted"))
            )
            advertised, bgp_reason = decide_bgp.routes_of(context, service, after) if service else ([], "")
            if self._advertise(key, advertised, routes):
                why.setdefault(key, bgp_reason or after.reason)
            if after == before:
                continue
            self._hold(key, before, after)
            touched.update(p.ip for p in before.layer2)
            touched.update(p.ip for p in after.layer2)
            reason = after.reason or _moved(before, after)
            if reason:
                why[key] = reason
            if service:
                self._verdicts[key] = after
            else:
                self._verdicts.pop(key, None)
            if service and (after.reason or (bgp_reason and not after.layer2)):
                self.reasons[key] = after.reason or bgp_reason
            else:
                self.reasons.pop(key, None)
        put, drop = self._regroup(touched)
        put_routes, drop_routes = self._reroute(routes)
        self._writer.change(put + put_routes, drop + drop_routes, {k: r for k, r in why.items() if r})

    def _hold(self, key: str, before: Verdict, after: Verdict) -> None:
        for placed in before.layer2:
            holders = self._holders.get(placed.ip, set())
            holders.discard(key)
            if not holders:
                self._holders.pop(placed.ip, None)
        for placed in after.layer2:
            self._holders.setdefault(placed.ip, set()).add(key)

    def _regroup(self, touched: set[str]) -> tuple[list[Item], list[Key]]:
        """Make anew every group that has to do with these addresses."""
        services: set[str] = set()
        queue, addresses = list(touched), set(touched)
        while queue:
            for key in self._holders.get(queue.pop(), ()):
                if key not in services:
                    services.add(key)
                    for placed in self._verdicts[key].layer2:
                        if placed.ip not in addresses:
                            addresses.add(placed.ip)
                            queue.append(placed.ip)
        old = {self._group_of.pop(ip) for ip in addresses if ip in self._group_of}
        groups = decide_layer2.groups_of({key: self._verdicts[key] for key in sorted(services)})
        for group in groups:
            for address in group.addresses:
                self._group_of[address.ip] = group.key
        new = {group.key for group in groups}
        return list(groups), [("Layer2Group", key) for key in sorted(old - new)]

    def _advertise(self, key: str, found: list[tuple[Route, Placed]], changed: set[Route]) -> bool:
        """Note a Service's routes; True when one of them went."""
        after = [(route, placed.ip) for route, placed in found]
        before = self._routes.get(key, [])
        if before == after:
            return False
        for route, ip in before:
            holders = self._wanted[route][ip]
            holders.discard(key)
            if not holders:
                del self._wanted[route][ip]
            changed.add(route)
        for route, placed in found:
            self._wanted.setdefault(route, {}).setdefault(placed.ip, set()).add(key)
            self._pools[placed.ip] = placed.pool_name
            changed.add(route)
        if after:
            self._routes[key] = after
        else:
            self._routes.pop(key, None)
        return bool(set(before) - set(after))

    def _reroute(self, changed: set[Route]) -> tuple[list[Item], list[Key]]:
        put: list[Item] = []
        drop: list[Key] = []
        for route in sorted(changed):
            wanted = self._wanted.get(route)
            if wanted:
                put.append(decide_bgp.make_route(route, wanted, self._pools))
            else:
                self._wanted.pop(route, None)
                drop.append(("BgpRoute", route.key))
        return put, drop


def _moved(before: Verdict, after: Verdict) -> str:
    """Why an address that was announced is not any more, though the Service still is announced."""
    gone = {p.ip for p in before.layer2} - {p.ip for p in after.layer2}
    gone_bgp = {p.ip for p in before.bgp} - {p.ip for p in after.bgp}
    if not gone and not gone_bgp:
        return ""
    other = {p.ip for p in after.bgp} if gone else {p.ip for p in after.layer2}
    return "protocolChanged" if (gone or gone_bgp) & other else "loadBalancerIPChanged"
