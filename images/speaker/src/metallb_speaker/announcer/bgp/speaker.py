"""All BGP neighbours of this node with their BFD sessions, as one sans-IO machine over `Desired`.

The edge (`edge/bgp.py`) acts on `actions()` and carries bytes. Names of neighbours are the keys of
`desired.BgpPeer`. Config changes touch only the neighbours that they change.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from metallb_speaker.announcer.bfd.lateness import Lateness
from metallb_speaker.announcer.bfd.session import Down, Profile, Session
from metallb_speaker.announcer.bfd.session import Up as BfdUp
from metallb_speaker.announcer.bfd.wire import Diagnostic
from metallb_speaker.announcer.bfd.wire import State as BfdState
from metallb_speaker.desired import BfdTimers, BgpPeer, BgpRoute

from .neighbor import Action, AttemptFailed, Neighbor, SessionDown, SessionUp
from .rib import RouteAttributes
from .settings import Settings
from .wire.capabilities import Family
from .wire.prefix import Prefix, parse

#: Seconds between closing TCP and BFD's AdminDown, where graceful restart keeps the routes.
SILENCE_WAIT = 0.1


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """What happened to a neighbour: `name` is that of the log event (contract section 4)."""

    peer: str
    name: str  # sessionUp, sessionDown, sessionFailed, bfdUp, bfdDown
    reason: str = ""


def settings_of(peer: BgpPeer, identifier: ipaddress.IPv4Address, *, restarting: bool) -> Settings:
    """A neighbour's settings from `Desired`. `identifier` serves peers without a router-id."""
    families: tuple[Family, ...] = tuple(f for f in ("ipv4", "ipv6") if f in peer.address_families)
    return Settings(
        name=peer.key,
        my_asn=peer.local_asn or peer.my_asn,
        peer_asn=peer.peer_asn,
        address=ipaddress.ip_address(peer.address),
        identifier=ipaddress.IPv4Address(peer.router_id) if peer.router_id else identifier,
        port=peer.port,
        hold_time=peer.hold_time,
        keepalive_time=peer.keepalive_time,
        connect_time=peer.connect_time,
        families=families or ("ipv4", "ipv6"),
        graceful_restart=peer.graceful_restart,
        restarting=restarting,
    )


def _session_part(peer: BgpPeer) -> BgpPeer:
    """What a change of resets the session: all but BFD, which has timers of its own, and `listen`."""
    return replace(peer, bfd_profile="", listen=False)


@lru_cache(maxsize=1024)
def _attributes(local_pref: int, communities: frozenset[tuple[int, ...]]) -> RouteAttributes:
    """One object for equal attributes: routes that share them are told apart from others at no cost."""
    plain = sorted((c[0], c[1]) for c in communities if len(c) == 2)
    large = sorted((c[0], c[1], c[2]) for c in communities if len(c) == 3)
    return RouteAttributes(local_pref, tuple(plain), tuple(large))


def merge(peer: str, routes: Iterable[BgpRoute]) -> RouteAttributes | None:
    """What one neighbour should get for one prefix: all communities, the highest local preference; None: nothing."""
    mine = [route for route in routes if not route.peers or peer in route.peers]
    if not mine:
        return None
    if len(mine) == 1:
        return _attributes(mine[0].localpref, frozenset(mine[0].communities))
    communities = frozenset(c for route in mine for c in route.communities)
    return _attributes(max(route.localpref for route in mine), communities)


class BgpSpeaker:
    """Keeps the neighbours that `Desired` names, and their routes, as they should be."""

    def __init__(self, identifier: ipaddress.IPv4Address, rng: random.Random | None = None) -> None:
        self._identifier = identifier
        self._rng = rng or random.Random()  # noqa: S311 - spreads timers, guards no secret
        self._peers: dict[str, BgpPeer] = {}
        self._routes: dict[str, Prefix] = {}  # route key -> prefix
        self._by_prefix: dict[Prefix, dict[str, BgpRoute]] = {}
        self._touched: dict[Prefix, None] = {}  # in order of change
        self._timers: dict[str, BfdTimers] = {}
        self._neighbors: dict[str, Neighbor] = {}
        self._leaving: dict[str, Neighbor] = {}  # removed from the configuration, still saying good-bye
        self._bfd: dict[str, Session] = {}
        self._by_discriminator: dict[int, str] = {}
        self._ending: dict[str, tuple[BgpPeer, Session]] = {}  # AdminDown still to be sent
        self.lateness = Lateness()
        self.bfd_generation = 0  # grows when sessions come, go, or get other addresses
        self._had_session: set[str] = set()
        self._events: list[PeerEvent] = []
        self._stopping = False
        self._silence_at = float("inf")

    # --- wishes ---------------------------------------------------------------------------------

    def set_peers(self, peers: Iterable[BgpPeer], timers: Iterable[BfdTimers], now: float) -> None:
        """All neighbours and BFD profiles. Unchanged neighbours notice nothing."""
        self._timers = {t.key: t for t in timers}
        wanted = {p.key: p for p in peers}
        self.bfd_generation += 1
        for key in self._peers.keys() - wanted.keys():
            self._remove(key, now)
        for peer in wanted.values():
            self._upsert(peer, now)

    def put_route(self, route: BgpRoute) -> None:
        """One route is new or has changed; `flush` sends. Cost: that of one prefix."""
        self.drop_route(route.key)
        prefix = parse(route.prefix)
        self._routes[route.key] = prefix
        self._by_prefix.setdefault(prefix, {})[route.key] = route
        self._touched[prefix] = None

    def drop_route(self, key: str) -> None:
        prefix = self._routes.pop(key, None)
        if prefix is None:
            return
        routes = self._by_prefix[prefix]
        del routes[key]
        if not routes:
            del self._by_prefix[prefix]
        self._touched[prefix] = None

    def flush(self, now: float) -> None:
        """Tell every neighbour what changed since the last call."""
        touched, self._touched = self._touched, {}
        for key, neighbor in self._neighbors.items():
            self._fill(key, neighbor, touched)
            neighbor.flush(now)

    def _fill(self, key: str, neighbor: Neighbor, prefixes: Iterable[Prefix]) -> None:
        for prefix in prefixes:
            attributes = merge(key, self._by_prefix.get(prefix, {}).values())
            if attributes is None:
                neighbor.rib.remove(prefix)
            else:
                neighbor.rib.upsert(prefix, attributes)

    def _upsert(self, peer: BgpPeer, now: float) -> None:
        old = self._peers.get(peer.key)
        self._peers[peer.key] = peer
        settings = settings_of(peer, self._identifier, restarting=peer.key not in self._had_session)
        neighbor = self._neighbors.get(peer.key)
        if neighbor is None:
            self._leaving.pop(peer.key, None)
            neighbor = self._neighbors[peer.key] = Neighbor(settings, self._rng)
            self._fill(peer.key, neighbor, self._by_prefix)
            neighbor.start(now)
        elif old is not None and _session_part(old) != _session_part(peer):
            neighbor.reconfigure(settings, now)
        self._bind_bfd(peer, now)

    def _bind_bfd(self, peer: BgpPeer, now: float) -> None:
        timers = self._timers.get(peer.bfd_profile) if peer.bfd_profile else None
        if timers is None:
            self._end_bfd(peer.key, peer, now)
            return
        profile = Profile(
            receive_interval=timers.receive_interval_ms / 1000,
            transmit_interval=timers.transmit_interval_ms / 1000,
            detect_multiplier=timers.detect_multiplier,
            echo_interval=timers.echo_interval_ms / 1000,
            echo_mode=timers.echo_mode,
            passive_mode=timers.passive_mode,
            minimum_ttl=timers.minimum_ttl,
        )
        if peer.key in self._bfd:
            self._bfd[peer.key].set(profile, now)
            return
        used = self._by_discriminator
        discriminator = next(d for d in iter(lambda: self._rng.randrange(1, 1 << 32), 0) if d not in used)
        self._ending.pop(peer.key, None)
        self._bfd[peer.key] = Session(profile, discriminator, now, self._rng, self.lateness)
        self._by_discriminator[discriminator] = peer.key

    def _end_bfd(self, key: str, peer: BgpPeer, now: float) -> None:
        """AdminDown, so that the peer does not take it for a failure; `ending_bfd` has it sent."""
        if (session := self._bfd.pop(key, None)) is not None:
            del self._by_discriminator[session.discriminator]
            session.shutdown(now)
            self._ending[key] = (peer, session)

    def ending_bfd(self) -> list[tuple[BgpPeer, Session]]:
        """Sessions that were taken down, each once: send what they have pending."""
        out = list(self._ending.values())
        self._ending.clear()
        return out

    def _remove(self, key: str, now: float) -> None:
        peer = self._peers.pop(key)
        neighbor = self._neighbors.pop(key)
        neighbor.stop(now, deconfigured=True)
        self._leaving[key] = neighbor
        self._end_bfd(key, peer, now)

    def stop(self, now: float, text: str = "") -> None:
        """Leave in order: BFD says that it is no failure, and each neighbour is left as it was agreed.

        Where graceful restart keeps the routes, TCP closes first: some routers (BIRD) take them away on AdminDown
        while the session stands, though RFC 5882 section 3.2 says that they should not.
        """
        self._stopping = True
        for key, session in self._bfd.items():
            if self._neighbors[key].keeps_routes:
                self._silence_at = now + SILENCE_WAIT
            else:
                session.shutdown(now)
        for neighbor in self._neighbors.values():
            neighbor.stop(now, text=text)

    def _silence(self, now: float) -> None:
        self._silence_at = float("inf")
        for session in self._bfd.values():
            if session.state is not BfdState.ADMIN_DOWN:
                session.shutdown(now)

    @property
    def stopped(self) -> bool:
        return self._silence_at == float("inf") and all(
            n.stopped for n in [*self._neighbors.values(), *self._leaving.values()]
        )

    # --- for the edge -----------------------------------------------------------------------------

    def peer(self, key: str) -> BgpPeer | None:
        return self._peers.get(key)

    def neighbor(self, key: str) -> Neighbor | None:
        """Also one that is leaving, until it has said good-bye."""
        return self._neighbors.get(key) or self._leaving.get(key)

    def by_address(self, address: str) -> str | None:
        """The neighbour that calls from this address, if it may (`listen`)."""
        return next((k for k, p in self._peers.items() if p.address == address and p.listen), None)

    def bfd(self, key: str) -> Session | None:
        return self._bfd.get(key)

    def bfd_by_discriminator(self, discriminator: int) -> str | None:
        return self._by_discriminator.get(discriminator)

    def bfd_by_address(self, address: str) -> str | None:
        return next((k for k in self._bfd if self._peers[k].address == address), None)

    def bfd_sessions(self) -> Mapping[str, Session]:
        return self._bfd

    def actions(self) -> list[tuple[str, Action]]:
        out = [(k, a) for k, n in [*self._neighbors.items(), *self._leaving.items()] for a in n.actions()]
        for key in [k for k, n in self._leaving.items() if n.stopped]:
            del self._leaving[key]
        return out

    def deadline(self) -> float:
        times = [n.deadline() for n in self._neighbors.values()]
        times += [n.deadline() for n in self._leaving.values()]
        times += [s.deadline() for s in self._bfd.values()]
        return min([self._silence_at, *times])

    def on_deadline(self, now: float) -> None:
        if now >= self._silence_at:
            self._silence(now)
        for session in self._bfd.values():  # first: its timers are the tightest
            if now >= session.deadline():
                session.on_deadline(now)
        for neighbor in [*self._neighbors.values(), *self._leaving.values()]:
            if now >= neighbor.deadline():
                neighbor.on_deadline(now)

    # --- what happened ------------------------------------------------------------------------------

    def follow(self, now: float) -> list[PeerEvent]:
        """Pass BFD's verdicts on to BGP, and tell what happened since the last call."""
        for key, session in self._bfd.items():
            for event in session.events():
                if isinstance(event, BfdUp):
                    self._events.append(PeerEvent(key, "bfdUp"))
                    self._neighbors[key].hurry(now)  # the path works: no need to sit out a long back-off
                else:
                    self._bfd_down(key, event, now)
        for key, neighbor in [*self._neighbors.items(), *self._leaving.items()]:
            for happened in neighbor.events():
                match happened:
                    case SessionUp():
                        self._had_session.add(key)
                        self._events.append(PeerEvent(key, "sessionUp"))
                    case SessionDown(reason):
                        self._events.append(PeerEvent(key, "sessionDown", reason))
                    case AttemptFailed(reason):
                        self._events.append(PeerEvent(key, "sessionFailed", reason))
        out, self._events = self._events, []
        return out

    def _bfd_down(self, key: str, event: Down, now: float) -> None:
        reason = Diagnostic(event.diagnostic).name.lower().replace("_", " ")
        self._events.append(PeerEvent(key, "bfdDown", reason))
        if not event.by_operator and not self._stopping:
            self._neighbors[key].reset(now, bfd=True)

    def status(self) -> list[dict[str, Any]]:
        """For `/status`: one entry per neighbour."""
        out = []
        for key, neighbor in sorted(self._neighbors.items()):
            peer, bfd = self._peers[key], self._bfd.get(key)
            connection = neighbor.connection
            agreed = connection.negotiated if connection else None
            out.append(
                {
                    "peer": key,
                    "address": f"{peer.address}:{peer.port}",
                    "asn": peer.peer_asn,
                    "state": neighbor.state.value,
                    "last_error": neighbor.last_error,
                    "hold_time": agreed.hold_time if agreed else None,
                    "families": list(agreed.families) if agreed else [],
                    "graceful_restart": agreed.graceful_restart if agreed else False,
                    "prefixes": {"desired": neighbor.rib.desired, "advertised": neighbor.rib.advertised},
                    "updates": {
                        "sent": neighbor.updates_sent,
                        "received": connection.updates_received if connection else 0,
                    },
                    "bfd": bfd.state.name if bfd else None,
                    "bfd_diagnostic": bfd.diagnostic.name if bfd else None,
                    "bfd_echo": {
                        "active": bfd.echo.active,
                        "sent": bfd.echo.packets_out,
                        "received": bfd.echo.packets_in,
                    }
                    if bfd
                    else None,
                }
            )
        return out
