"""BGP and BFD in the announcer: from the stream's items to sessions, and what they say of themselves.

Made when the first item of BGP comes: who announces on layer 2 only, does not pay for it.

Sans-IO but for the edges that are given: the machine is `bgp.speaker.BgpSpeaker`.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from metallb_common.obs import logs
from metallb_common.obs.metrics import Family, Labels
from metallb_speaker.announcer.bfd.lateness import BOUNDS
from metallb_speaker.announcer.bgp.connection import PEER_SAID
from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.record import Record
from metallb_speaker.desired import BfdTimers, BgpPeer, BgpRoute, Item


class Edge(Protocol):
    """What carries bytes for the machine: see `edge.bgp.BgpEdge` and `edge.bfd.BfdEdge`."""

    def act(self, now: float) -> None: ...

    def listen_for(self, peers: Mapping[str, str]) -> None: ...

    def problems(self) -> Mapping[str, str]: ...

    def close(self) -> None: ...


def router_id(node: str, host: str) -> ipaddress.IPv4Address:
    """The BGP identifier without a configured router-id: the node's IPv4 address, else one made of its name.

    Any non-zero value that is unique within the AS serves (RFC 6286 section 2.1).
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if isinstance(address, ipaddress.IPv4Address) and int(address):
        return address
    return ipaddress.IPv4Address(int.from_bytes(hashlib.sha256(node.encode()).digest()[:4]) or 1)


class Routing:
    """All of BGP and BFD on this node."""

    def __init__(
        self,
        machine: BgpSpeaker,
        edge: Edge,
        record: Record,
        warn: Callable[[str, str], None],
    ) -> None:
        """`warn(reason, message)` makes an event of the Node; `record` is the announcer's."""
        self.machine, self.edge = machine, edge
        self._record, self._warn = record, warn
        self._routes: set[str] = set()
        self._peers: dict[str, BgpPeer] = {}
        self._timers: dict[str, BfdTimers] = {}
        self._peers_changed = self._routes_changed = False
        self._warned: dict[str, str] = {}
        self._leaving = False

    # --- wishes ---------------------------------------------------------------------------------------

    def change(self, put: Iterable[Item], drop: Iterable[tuple[str, str]], why: Mapping[str, str]) -> None:
        """Items that came, changed or went. Nothing leaves before `commit`. Unchanged sessions notice nothing."""
        for item in put:
            match item:
                case BgpRoute():
                    self._routes_changed = True
                    self._routes.add(item.key)
                    self.machine.put_route(item)
                    self._record.set("bgp", item.key, item.addresses, why, "notOwner")
                case BgpPeer():
                    self._peers_changed = True
                    if item.key not in self._peers:
                        logs.info(event="peerAdded", peer=item.called, address=item.address)
                    self._peers[item.key] = item
                case BfdTimers():
                    self._peers_changed = True
                    self._timers[item.key] = item
        for kind, key in drop:
            if kind == "BgpRoute" and key in self._routes:
                self._routes_changed = True
                self._routes.discard(key)
                self.machine.drop_route(key)
                self._record.set("bgp", key, (), why, "notOwner")
            elif kind == "BgpPeer" and (peer := self._peers.pop(key, None)) is not None:
                self._peers_changed = True
                reason = why.get(f"BgpPeer {key}", "removedFromConfig")
                logs.info(event="peerRemoved", peer=peer.called, reason=reason)
            elif kind == "BfdTimers":
                self._peers_changed |= self._timers.pop(key, None) is not None

    def commit(self, now: float) -> None:
        """A transaction is whole: bring sessions and routes to it."""
        if self._leaving:
            return
        if self._peers_changed:
            self._peers_changed = False
            self.machine.set_peers(self._peers.values(), self._timers.values(), now)
            self.edge.listen_for({p.address: p.password for p in self._peers.values() if p.listen})
        if self._routes_changed:
            self._routes_changed = False
            logs.info(event="updatedAdvertisements", numAds=len(self._routes), msg="routes changed")
        self.machine.flush(now)
        self.turn(now)

    def leave(self, now: float) -> None:
        """Say good-bye to every peer; `left` tells when that is done."""
        if not self._leaving:
            self._leaving = True
            self.machine.stop(now, "the speaker is stopping")
            self.turn(now)

    @property
    def left(self) -> bool:
        return self._leaving and self.machine.stopped

    # --- every turn -----------------------------------------------------------------------------------

    def deadline(self) -> float:
        return self.machine.deadline()

    def on_deadline(self, now: float) -> None:
        self.machine.on_deadline(now)

    def turn(self, now: float) -> None:
        """Carry what is pending, tell what happened."""
        for event in self.machine.follow(now):
            peer = self._peers.get(event.peer)
            name = peer.called if peer is not None else event.peer
            where = f"{peer.address}:{peer.port}" if peer is not None else event.peer
            fields: dict[str, Any] = {"event": event.name, "peer": name, "address": where}
            if event.reason:
                fields["reason"] = event.reason
            if event.reason.startswith(PEER_SAID) and self._warned.get(event.peer) != event.reason:
                logs.warn(**{**fields, "event": "peerNotification"})
            if event.name in ("sessionUp", "bfdUp"):
                logs.info(**fields)
                self._warned.pop(event.peer, None)
            elif event.name == "sessionFailed":
                # Said at every change of reason, not at every attempt: a peer may be away for days.
                if self._warned.get(event.peer) != event.reason:
                    self._warned[event.peer] = event.reason
                    logs.warn(**fields)
            else:
                logs.warn(**fields)
                if not self._leaving:
                    what = "BFD" if event.name == "bfdDown" else "BGP"
                    self._warn("bgpSessionDown", f"{what} session with {name} ({where}) is down: {event.reason}")
        self.edge.act(now)

    # --- for pages ------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        called = {key: peer.called for key, peer in self._peers.items()}
        out = [f"{called.get(where, where)}: {text}" for where, text in sorted(self.edge.problems().items())]
        for entry in self.machine.status():
            if entry["state"] != State.ESTABLISHED.value and entry["last_error"]:
                out.append(f"BGP peer {entry['peer']} ({entry['address']}): {entry['last_error']}")
        return out + self.machine.problems()

    def status(self) -> list[dict[str, Any]]:
        return self.machine.status()

    def metrics(self) -> Iterator[Family]:
        """The series of contract section 3; they end with the peer."""
        up: dict[Labels, float] = {}
        updates: dict[Labels, float] = {}
        announced: dict[Labels, float] = {}
        pending: dict[Labels, float] = {}
        bfd: dict[str, dict[Labels, float]] = {name: {} for name in _BFD}
        for key, peer in self._peers.items():
            neighbor = self.machine.neighbor(key)
            if neighbor is None:
                continue
            label = (f"[{peer.address}]:{peer.port}" if ":" in peer.address else f"{peer.address}:{peer.port}",)
            is_up = neighbor.state is State.ESTABLISHED
            up[label] = float(is_up)
            updates[label] = float(neighbor.updates_sent)
            announced[label] = float(neighbor.rib.advertised if is_up else 0)
            pending[label] = float(neighbor.rib.desired)
            session = self.machine.bfd(key)
            if session is not None:
                values = (
                    session.state.name == "UP",
                    session.packets_in,
                    session.packets_out,
                    session.up_events,
                    session.down_events,
                    session.echo.packets_in,
                    session.echo.packets_out,
                )
                for name, value in zip(_BFD, values, strict=True):
                    bfd[name][(peer.address,)] = float(value)
        yield Family("metallb_bgp_session_up", "BGP session state (1 is up, 0 is down)", "gauge", ("peer",), up)
        yield Family("metallb_bgp_updates_total", "Number of BGP UPDATE messages sent", "counter", ("peer",), updates)
        yield Family(
            "metallb_bgp_announced_prefixes_total",
            "Number of prefixes currently being advertised on the BGP session",
            "gauge",
            ("peer",),
            announced,
        )
        yield Family(
            "metallb_bgp_pending_prefixes_total",
            "Number of prefixes that should be advertised on the BGP session",
            "gauge",
            ("peer",),
            pending,
        )
        for name, (text, kind) in _BFD.items():
            yield Family(name, text, kind, ("peer",), bfd[name])
        late = self.machine.lateness
        yield Family(
            "metallb_bfd_send_late_packets",
            "Number of BFD control packets of sessions that are up, by the seconds that they left after their time",
            "counter",
            ("within",),
            {(str(bound),): float(n) for bound, n in zip((*BOUNDS, "+Inf"), late.buckets, strict=True)},
        )
        yield Family(
            "metallb_bfd_send_late_max_seconds",
            "The longest that a BFD control packet left after its time",
            "gauge",
            (),
            {(): late.longest},
        )


_BFD = {
    "metallb_bfd_session_up": ("BFD session state (1 is up, 0 is down)", "gauge"),
    "metallb_bfd_control_packet_input": ("Number of received BFD control packets", "counter"),
    "metallb_bfd_control_packet_output": ("Number of sent BFD control packets", "counter"),
    "metallb_bfd_session_up_events": ("Number of BFD session up events", "counter"),
    "metallb_bfd_session_down_events": ("Number of BFD session down events", "counter"),
    "metallb_bfd_echo_packet_input": ("Number of received BFD echo packets", "counter"),
    "metallb_bfd_echo_packet_output": ("Number of sent BFD echo packets", "counter"),
}
