"""All BGP neighbours of this node with their BFD sessions, as one sans-IO machine over `Desired`.

The edge (`edge/bgp.py`) acts on `actions()` and carries bytes. Names of neighbours are the keys of
`desired.BgpPeer`. Config changes touch only the neighbours that they change.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metallb_speaker.announcer.bfd.lateness import Lateness
from metallb_speaker.announcer.bfd.session import Down, Profile, Session
from metallb_speaker.announcer.bfd.session import Up as BfdUp
from metallb_speaker.announcer.bfd.wire import Diagnostic
from metallb_speaker.announcer.bfd.wire import State as BfdState
from metallb_speaker.desired import BfdTimers, BgpPeer, BgpRoute

from .merge import MAX_COMMUNITIES, merge
from .neighbor import Action, AttemptFailed, Neighbor, SessionDown, SessionUp
from .settings import Settings
from .wire.capabilities import Family
from .wire.prefix import Prefix, parse, text_of

#: Seconds between the end of a BGP session and BFD's AdminDown.
SILENCE_WAIT = 0.1
#: Seconds between looks whether an iBGP peer is on a link of ours, while BFD with it is not up.
LOOK_AGAIN = 10.0
#: Given the peer's and our own address ("": any), whether there is no router between.
OnLink = Callable[[str, str], bool]


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
        name=peer.called,
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
    """What a change of resets the session: what an OPEN says, and how TCP is made."""
    return replace(peer, name="", bfd_profile="", listen=False, multihop=False, connect_time=0, keepalive_time=0)


def _path(peer: BgpPeer) -> tuple[str, str, bool]:
    """What a session of BFD is with: one system, over one path, and no second one there (RFC 5881 section 2)."""
    return peer.address, peer.source, peer.multihop


def _by_link(peer: BgpPeer) -> bool:
    """Whether it is the link that says how far BFD goes: eBGP peers are one hop away, unless `ebgp-multihop` is set."""
    internal = peer.peer_asn in ("internal", peer.local_asn or peer.my_asn)
    return internal and bool(peer.bfd_profile) and not peer.gtsm


class BgpSpeaker:
    """Keeps the neighbours that `Desired` names, and their routes, as they should be."""

    def __init__(
        self,
        identifier: ipaddress.IPv4Address,
        rng: random.Random | None = None,
        *,
        on_link: OnLink = lambda _peer, _own: True,
    ) -> None:
        self._identifier = identifier
        self._on_link = on_link
        self._look_at = float("inf")  # at the links of iBGP peers
        self._rng = rng or random.Random()  # noqa: S311 - spreads timers, guards no secret
        self._peers: dict[str, BgpPeer] = {}
        self._routes: dict[str, Prefix] = {}  # route key -> prefix
        self._by_prefix: dict[Prefix, dict[str, BgpRoute]] = {}
        self._touched: dict[Prefix, None] = {}  # in order of change
        self._cut: dict[tuple[str, Prefix], int] = {}  # neighbour, route -> communities that it lacks
        self._timers: dict[str, BfdTimers] = {}
        self._neighbors: dict[str, Neighbor] = {}
        self._tokens = itertools.count(1)
        self._leaving: dict[str, tuple[BgpPeer, Neighbor]] = {}  # not configured any more, still saying good-bye
        self._last_actions: list[tuple[str, Action]] = []  # of neighbours that were cut short in it
        self._bfd: dict[str, Session] = {}
        self._by_discriminator: dict[int, str] = {}
        self._ending: dict[str, tuple[BgpPeer, Session]] = {}  # AdminDown still to be sent
        self.lateness = Lateness()
        self.bfd_generation = 0  # grows when sessions come, go, or get other addresses
        self._had_session: set[str] = set()
        self._events: list[PeerEvent] = []
        self._stopping = False
        self._silence_at: dict[str, float] = {}  # sessions of BFD whose BGP session has ended

    # --- wishes ---------------------------------------------------------------------------------

    def set_peers(self, peers: Iterable[BgpPeer], timers: Iterable[BfdTimers], now: float) -> None:
        """All neighbours and BFD profiles. Unchanged neighbours notice nothing."""
        self._timers = {t.key: t for t in timers}
        wanted = {p.key: p for p in peers}
        self.bfd_generation += 1
        for key in self._peers.keys() - wanted.keys():
            self._remove(key, now)
        for peer in wanted.values():
            self._upsert(self._placed(peer), now)
        self._look_at = now + LOOK_AGAIN if any(map(_by_link, self._peers.values())) else float("inf")

    def _placed(self, peer: BgpPeer) -> BgpPeer:
        """BFD with an iBGP peer, which may be anywhere, is over one hop or over several as the route to it says; one
        that is up is proven right."""
        if not _by_link(peer):
            return peer
        old, session = self._peers.get(peer.key), self._bfd.get(peer.key)
        if old is not None and session is not None and session.state is BfdState.UP and old.address == peer.address:
            return replace(peer, multihop=old.multihop)
        return replace(peer, multihop=not self._on_link(peer.address, peer.source))

    def _look(self, now: float) -> None:
        """The node's addresses and routes may come later than the configuration."""
        self._look_at = now + LOOK_AGAIN
        for peer in list(self._peers.values()):
            if (placed := self._placed(peer)) != peer:
                self.bfd_generation += 1
                self._upsert(placed, now)

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
            attributes = merge(self._peers[key].called, self._by_prefix.get(prefix, {}).values())
            if attributes is None:
                neighbor.rib.remove(prefix)
            else:
                neighbor.rib.upsert(prefix, attributes)
            if attributes is not None and attributes.left_out:
                self._cut[key, prefix] = attributes.left_out
            elif self._cut:
                self._cut.pop((key, prefix), None)

    def _upsert(self, peer: BgpPeer, now: float) -> None:
        old = self._peers.get(peer.key)
        self._peers[peer.key] = peer
        settings = settings_of(peer, self._identifier, restarting=peer.key not in self._had_session)
        neighbor = self._neighbors.get(peer.key)
        if neighbor is None:
            self._cut_short(peer.key, now)
            neighbor = self._neighbors[peer.key] = Neighbor(settings, self._rng, self._tokens)
            self._fill(peer.key, neighbor, self._by_prefix)
            neighbor.start(now)
        elif old is not None and old != peer:
            if _session_part(old) != _session_part(peer):
                neighbor.reconfigure(settings, now)
            else:
                neighbor.adjust(settings, now)
            if old.called != peer.called:  # advertisements choose peers by name
                self._fill(peer.key, neighbor, self._by_prefix)
            if _path(old) != _path(peer):
                self._end_bfd(peer.key, old, now)
        self._bind_bfd(peer, now)

    def _bind_bfd(self, peer: BgpPeer, now: float) -> None:
        timers = self._timers.get(peer.bfd_profile) if peer.bfd_profile else None
        if timers is None or self._bfd_holder(peer) not in (None, peer.key):
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
        self._bfd[peer.key] = Session(profile, discriminator, now, self._rng, self.lateness)
        self._by_discriminator[discriminator] = peer.key

    def _bfd_holder(self, peer: BgpPeer) -> str | None:
        """Whose session watches the path to this peer: peers on other ports of one router have it together."""
        if peer.key in self._bfd:
            return peer.key
        return next((k for k in self._bfd if (p := self.peer(k)) is not None and _path(p) == _path(peer)), None)

    def _watched_by(self, key: str) -> list[str]:
        """The neighbours that go by the session of `key`, a leaving one not among them."""
        held = self.peer(key)
        if held is None:
            return []
        return [k for k, p in self._peers.items() if p.bfd_profile in self._timers and _path(p) == _path(held)]

    def _end_bfd(self, key: str, peer: BgpPeer, now: float) -> None:
        """AdminDown, so that the peer does not take it for a failure; `ending_bfd` has it sent.

        Where others go by the session, too, one of them has it from now on.
        """
        if (session := self._bfd.pop(key, None)) is not None:
            del self._by_discriminator[session.discriminator]
            heirs = (p for k, p in self._peers.items() if k != key and _path(p) == _path(peer))
            heir = next((p.key for p in heirs if p.bfd_profile in self._timers), None)
            if heir is not None and session.state is not BfdState.ADMIN_DOWN:
                self._bfd[heir], self._by_discriminator[session.discriminator] = session, heir
                self.bfd_generation += 1
                self._bind_bfd(self._peers[heir], now)
                return
            if session.state is not BfdState.ADMIN_DOWN:
                session.shutdown(now)
            self._ending[key] = (peer, session)
            self.bfd_generation += 1

    def ending_bfd(self) -> list[tuple[BgpPeer, Session]]:
        """Sessions that were taken down, each once: send what they have pending."""
        out = list(self._ending.values())
        self._ending.clear()
        return out

    def _remove(self, key: str, now: float) -> None:
        peer = self._peers.pop(key)
        neighbor = self._neighbors.pop(key)
        self._cut = {cut: count for cut, count in self._cut.items() if cut[0] != key}
        neighbor.stop(now, deconfigured=True)
        self._leaving[key] = peer, neighbor

    def _cut_short(self, key: str, now: float) -> None:
        """A neighbour that is leaving is wanted again: what it was goes at once, connection and all."""
        if key in self._leaving:
            self._leaving[key][1].leave_now(now)
            self._forget(key, now)

    def _forget(self, key: str, now: float) -> None:
        peer, neighbor = self._leaving.pop(key)
        self._last_actions += [(key, action) for action in neighbor.actions()]
        self._end_bfd(key, peer, now)
        self._silence_at.pop(key, None)

    def stop(self, now: float, text: str = "") -> None:
        """Leave each neighbour as it was agreed; when BGP is over, BFD says that it was no failure.

        BGP goes first: most routers end the session on AdminDown, and take the routes away that were to stay a while.
        """
        self._stopping = True
        self._look_at = float("inf")
        for neighbor in self._neighbors.values():
            neighbor.stop(now, text=text)

    def _follow_leaving(self, now: float) -> None:
        """End BFD a moment after the BGP session that it was for."""
        ended = [key for key, (_, neighbor) in self._leaving.items() if neighbor.stopped]
        if self._stopping:
            ended += [key for key, neighbor in self._neighbors.items() if neighbor.stopped]
        for key in ended:
            session = self._bfd.get(key)
            others = [k for k in self._watched_by(key) if k != key]
            if self._stopping and not all(self._neighbors[k].stopped for k in others):
                continue
            if session is not None and session.state is not BfdState.ADMIN_DOWN and (self._stopping or not others):
                wait = SILENCE_WAIT if session.state is BfdState.UP else 0.0
                if now < self._silence_at.setdefault(key, now + wait):
                    continue
                session.shutdown(now)
            self._silence_at.pop(key, None)
            if key in self._leaving:
                self._forget(key, now)

    @property
    def stopped(self) -> bool:
        silent = all(session.state is BfdState.ADMIN_DOWN for session in self._bfd.values())
        return silent and not self._leaving and all(n.stopped for n in self._neighbors.values())

    # --- for the edge -----------------------------------------------------------------------------

    def peer(self, key: str) -> BgpPeer | None:
        """Also one that is leaving, until it has said good-bye."""
        leaving = self._leaving.get(key)
        return leaving[0] if leaving is not None else self._peers.get(key)

    def neighbor(self, key: str) -> Neighbor | None:
        """Also one that is leaving, until it has said good-bye."""
        leaving = self._leaving.get(key)
        return leaving[1] if leaving is not None else self._neighbors.get(key)

    def _all(self) -> list[tuple[str, Neighbor]]:
        return [*self._neighbors.items(), *((key, neighbor) for key, (_, neighbor) in self._leaving.items())]

    def by_address(self, address: str) -> str | None:
        """The neighbour that calls from this address, if it may (`listen`)."""
        return next((k for k, p in self._peers.items() if p.address == address and p.listen), None)

    def bfd(self, key: str) -> Session | None:
        return self._bfd.get(key)

    def bfd_by_discriminator(self, discriminator: int) -> str | None:
        return self._by_discriminator.get(discriminator)

    def bfd_by_address(self, address: str, own: str, *, multihop: bool) -> str | None:
        """The session that a peer's first packet is for: of several with that address, the one from where it went."""
        found = {
            k: p.source
            for k in self._bfd
            if (p := self.peer(k)) is not None and (p.address, p.multihop) == (address, multihop)
        }
        if len(found) == 1:
            return next(iter(found))
        return next((k for wanted in (own, "") for k, source in found.items() if source == wanted), None)

    def bfd_sessions(self) -> Mapping[str, Session]:
        return self._bfd

    def actions(self) -> list[tuple[str, Action]]:
        out, self._last_actions = self._last_actions, []
        return out + [(key, action) for key, neighbor in self._all() for action in neighbor.actions()]

    def deadline(self) -> float:
        times = [neighbor.deadline() for _, neighbor in self._all()]
        times += [session.deadline() for session in self._bfd.values()]
        return min([self._look_at, *times, *self._silence_at.values()])

    def on_deadline(self, now: float) -> None:
        for session in self._bfd.values():  # first: its timers are the tightest
            if now >= session.deadline():
                session.on_deadline(now)
        if now >= self._look_at:
            self._look(now)
        for _, neighbor in self._all():
            if now >= neighbor.deadline():
                neighbor.on_deadline(now)

    # --- what happened ------------------------------------------------------------------------------

    def follow(self, now: float) -> list[PeerEvent]:
        """Pass BFD's verdicts on to BGP, and tell what happened since the last call."""
        for key, session in self._bfd.items():
            for event in session.events():
                if isinstance(event, BfdUp):
                    self._events.append(PeerEvent(key, "bfdUp"))
                    for watched in self._watched_by(key):
                        self._neighbors[watched].hurry(now)  # the path works: no need to sit out a long back-off
                else:
                    self._bfd_down(key, event, now)
        for key, neighbor in self._all():
            for happened in neighbor.events():
                match happened:
                    case SessionUp():
                        self._had_session.add(key)
                        self._events.append(PeerEvent(key, "sessionUp"))
                    case SessionDown(reason):
                        self._events.append(PeerEvent(key, "sessionDown", reason))
                    case AttemptFailed(reason):
                        self._events.append(PeerEvent(key, "sessionFailed", reason))
        self._follow_leaving(now)
        out, self._events = self._events, []
        return out

    def _bfd_down(self, key: str, event: Down, now: float) -> None:
        reason = Diagnostic(event.diagnostic).name.lower().replace("_", " ")
        self._events.append(PeerEvent(key, "bfdDown", reason))
        if not event.by_operator and not self._stopping:
            for watched in self._watched_by(key):
                self._neighbors[watched].reset(now, bfd=True)

    def problems(self) -> list[str]:
        """What is wrong with routes."""
        worst: dict[Prefix, int] = {}
        for (_, prefix), count in self._cut.items():
            worst[prefix] = max(count, worst.get(prefix, 0))
        return [
            f"route {text_of(prefix)}: {count} of its communities are left out, only {MAX_COMMUNITIES} fit into a "
            "message: let fewer advertisements have this prefix"
            for prefix, count in sorted(worst.items())
        ]

    def status(self) -> list[dict[str, Any]]:
        """For `/status`: one entry per neighbour."""
        out = []
        for key, neighbor in sorted(self._neighbors.items()):
            peer = self._peers[key]
            bfd = self._bfd.get(self._bfd_holder(peer) or "") if peer.bfd_profile else None
            connection = neighbor.connection
            agreed = connection.negotiated if connection else None
            out.append(
                {
                    "peer": peer.called,
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
