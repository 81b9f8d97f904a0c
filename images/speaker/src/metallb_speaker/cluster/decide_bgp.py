"""What this node advertises by BGP, and to whom: pure.

Every eligible node advertises every address of a Service (the router spreads the load); under
externalTrafficPolicy Local only nodes with an endpoint do. A Service without endpoints is withdrawn.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from metallb_common.config.model import BgpAdvertisement, Config, Peer
from metallb_common.config.peers import MAX_PASSWORD
from metallb_common.kube.views import Service
from metallb_common.net.selectors import any_matches
from metallb_speaker.cluster.eligible import tiers
from metallb_speaker.cluster.verdict import Context, Placed, Verdict
from metallb_speaker.cluster.view import ClusterView
from metallb_speaker.desired import AnnouncedAddress, BfdTimers, BgpPeer, BgpRoute


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A prefix with its attributes, before the Services that want it are counted."""

    prefix: str
    localpref: int
    communities: tuple[tuple[int, ...], ...]
    peers: tuple[str, ...]

    @property
    def key(self) -> str:
        text = repr((self.localpref, self.communities, self.peers))
        return f"{self.prefix}#{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def routes_of(context: Context, service: Service, verdict: Verdict) -> tuple[list[tuple[Route, Placed]], str]:
    """The routes that this node advertises for a Service; and, where there are none, why."""
    if verdict.reason or not verdict.bgp:
        return [], verdict.reason
    node = context.view.nodes.get(context.view.node)
    if node is None:
        return [], "notOwner"
    backends = context.view.backends(service.key)
    names: Iterable[str] = context.speakers
    if service.external_traffic_policy == "Local":
        if node.name not in backends.nodes:
            return [], "noLocalEndpoints"
        names = backends.nodes.intersection(context.speakers)
    if node.name not in tiers(names, context.view.nodes, mind_cordon=False).candidates:
        return [], "notOwner"
    # By route and address: two advertisements of a pool may differ in whom they are for, and come to the same here.
    out = {
        (route := _route(advertisement, placed), placed.ip): (route, placed)
        for placed in verdict.bgp
        for advertisement in placed.pool.bgp_advertisements
        if any_matches(advertisement.node_selectors, node.labels)
        and any_matches(advertisement.service_selectors, service.labels)
    }
    return list(out.values()), "" if out else "notOwner"


def _route(advertisement: BgpAdvertisement, placed: Placed) -> Route:
    length = advertisement.aggregation_length if placed.address.version == 4 else advertisement.aggregation_length_v6
    prefix = ipaddress.ip_network(f"{placed.ip}/{length}", strict=False)
    communities = tuple(sorted(c.parts for c in advertisement.communities))
    return Route(str(prefix), advertisement.localpref, communities, tuple(sorted(advertisement.peers)))


def make_route(route: Route, wanted: Mapping[str, Iterable[str]], pools: Mapping[str, str]) -> BgpRoute:
    """One route of all the Services that want it. `wanted`: address -> Services; `pools`: address -> pool."""
    addresses = tuple(
        AnnouncedAddress(ip, tuple(sorted(wanted[ip])), pools.get(ip, ""))
        for ip in sorted(wanted, key=lambda ip: int(ipaddress.ip_address(ip)))
    )
    return BgpRoute(route.key, route.prefix, route.localpref, route.communities, route.peers, addresses)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions that this node keeps, and what is wrong with those that it cannot keep.

    `unread` are the keys of those whose Secret nobody has answered for yet: what there is of them is to stay as it is.
    """

    peers: tuple[BgpPeer, ...] = ()
    problems: tuple[str, ...] = ()
    unread: frozenset[str] = frozenset()


def sessions(config: Config, view: ClusterView) -> Sessions:
    """What this node's sessions should be."""
    node = view.nodes.get(view.node)
    if node is None:
        return Sessions()
    mine = [peer for peer in config.peers if any_matches(peer.node_selectors, node.labels)]
    out: list[BgpPeer] = []
    problems: list[str] = []
    unread: set[str] = set()
    for key, peer in zip(peer_keys(mine), mine, strict=True):
        password = peer.password
        if peer.password_secret:
            found = view.passwords.get((peer.password_secret, peer.password_secret_key))
            if found is None and peer.password_secret not in view.answered_secrets:
                unread.add(key)
                problems.append(f"peer {peer.name}: the Secret {peer.password_secret!r} has not been read yet")
                continue
            if found is None:
                problems.append(
                    f"peer {peer.name}: no key {peer.password_secret_key!r} in Secret {peer.password_secret!r}; "
                    "the session waits for it"
                )
                continue
            if not found or len(found.encode()) > MAX_PASSWORD:
                problems.append(
                    f"peer {peer.name}: the password in Secret {peer.password_secret!r} has {len(found.encode())} "
                    f"bytes, TCP MD5 takes 1 to {MAX_PASSWORD}; the session waits for another"
                )
                continue
            password = found
        out.append(_peer(key, peer, password))
    return Sessions(tuple(_one_key_an_address(out, problems)), tuple(problems), frozenset(unread))


def _one_key_an_address(peers: Iterable[BgpPeer], problems: list[str]) -> Iterator[BgpPeer]:
    """The kernel checks calls from an address with one key, before it is known which of the peers there calls."""
    listening: dict[str, BgpPeer] = {}
    for peer in peers:
        first = listening.setdefault(peer.address, peer) if peer.listen else peer
        if first.password == peer.password:
            yield peer
            continue
        problems.append(
            f"peer {peer.called}: its calls are not taken: {first.called} listens for the same address with another "
            "password; give both one, or remove listen from one"
        )
        yield replace(peer, listen=False)


def peer_keys(peers: Iterable[Peer]) -> list[str]:
    """A key for each of a node's peers, that a new name does not change: that is no reason to end a session.

    Nor is a peer of other nodes, though it be at the same address: so they are not to be among these.
    """
    seen: Counter[str] = Counter()
    keys = []
    for peer in peers:
        where = _where(peer)
        seen[where] += 1
        keys.append(where if seen[where] == 1 else f"{where} #{seen[where]}")
    return keys


def _where(peer: Peer) -> str:
    return f"{peer.peer_address} {peer.peer_port}"


def is_named(key: str, config: Config) -> bool:
    """Whether a peer of the configuration, of whichever node, is where this key's is."""
    return key.partition(" #")[0] in map(_where, config.peers)


def _peer(key: str, peer: Peer, password: str) -> BgpPeer:
    return BgpPeer(
        key=key,
        name=peer.name,
        my_asn=peer.my_asn,
        peer_asn=peer.peer_asn,
        address=str(peer.peer_address),
        port=peer.peer_port,
        source=str(peer.source_address or ""),
        hold_time=peer.hold_time,
        keepalive_time=peer.keepalive_time,
        connect_time=peer.connect_time or 0,
        router_id=str(peer.router_id or ""),
        password=password,
        bfd_profile=peer.bfd_profile,
        multihop=peer.ebgp_multihop,
        local_asn=peer.local_asn or 0,
        graceful_restart=peer.graceful_restart_time if peer.graceful_restart else 0,
        address_families=peer.address_families,
        gtsm=peer.gtsm,
        listen=peer.listen,
    )


def bfd_timers(config: Config) -> list[BfdTimers]:
    return [
        BfdTimers(
            key=p.name,
            receive_interval_ms=p.receive_interval_ms,
            transmit_interval_ms=p.transmit_interval_ms,
            detect_multiplier=p.detect_multiplier,
            echo_interval_ms=p.echo_interval_ms,
            echo_mode=p.echo_mode,
            passive_mode=p.passive_mode,
            minimum_ttl=p.minimum_ttl,
        )
        for p in config.bfd_profiles
    ]


def decide(config: Config, view: ClusterView, verdicts: Mapping[str, Verdict]) -> list[BgpRoute]:
    """All routes at once. The engine gives the same, a change at a time."""
    context = Context(config, view)
    wanted: dict[Route, dict[str, set[str]]] = {}
    pools: dict[str, str] = {}
    for key, verdict in verdicts.items():
        for route, placed in routes_of(context, view.services[key], verdict)[0]:
            wanted.setdefault(route, {}).setdefault(placed.ip, set()).add(key)
            pools[placed.ip] = placed.pool_name
    return [make_route(route, wanted[route], pools) for route in sorted(wanted)]
