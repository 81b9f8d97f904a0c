"""One BGP neighbour: when to dial, which of two connections stays, what is advertised, how to leave.

Sans-IO. The edge acts on `actions()` (Dial, Hangup) and tells what happened: `dialed`, `dial_failed`,
`accepted`, `receive`, `sent`. Connections are named by tokens that the neighbour hands out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from .connection import Closed, Connection, Established, OpenReceived, RefreshWanted
from .fsm import Event, State, step
from .rib import RibOut, RouteAttributes
from .settings import Address, Settings
from .wire.capabilities import Family
from .wire.errors import BFD_DOWN, COLLISION, CONFIGURATION_CHANGE, HARD_RESET, PEER_DECONFIGURED, Code
from .wire.messages import REFRESH_BEGIN, REFRESH_END, Notification, RouteRefresh
from .wire.prefix import Prefix
from .wire.update import end_of_rib

#: Seconds between attempts double from the first to the last of these, unless connect-time is set.
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 60.0
#: A TCP attempt that neither succeeds nor fails is given up after this many seconds.
DIAL_TIMEOUT = 10.0
#: A session that held this long was a good one: the next loss is followed by a quick attempt.
STABLE = 10.0
#: Seconds between GRACEFUL_SHUTDOWN and Cease: time for the peer to move traffic (RFC 8326 section 4).
LEAVE_WAIT = 1.0
#: Above this many unsent octets no further UPDATEs are made: a slow peer costs no memory.
BACKLOG = 1 << 18


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection to the neighbour; answer with `dialed` or `dial_failed`."""

    token: int


@dataclass(frozen=True, slots=True)
class Hangup:
    """Send `last` if the transport takes it at once (a NOTIFICATION, mostly), then close."""

    token: int
    last: bytes = b""


@dataclass(frozen=True, slots=True)
class SessionUp:
    """Established."""


@dataclass(frozen=True, slots=True)
class SessionDown:
    """Was Established, and is no more."""

    reason: str


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A connection or an attempt at one ended before Established."""

    reason: str


Action = Dial | Hangup
NeighborEvent = SessionUp | SessionDown | AttemptFailed


class Neighbor:
    """Keeps one session to one neighbour alive, and its view of our routes right."""

    def __init__(self, settings: Settings, rng: random.Random | None = None) -> None:
        self.settings = settings
        self.rib = RibOut()
        self.last_error = ""
        self.updates_sent = 0
        self._rng = rng or random.Random()  # noqa: S311 - spreads timers, guards no secret
        self._idle_state = State.IDLE
        self._connections: dict[int, Connection] = {}
        self._next_hops: dict[int, Mapping[Family, Address | None]] = {}
        self._session: int | None = None  # token of the Established connection
        self._dialing: int | None = None
        self._token = 0
        self._retry_at = float("inf")
        self._backoff = 0.0
        self._up_at = 0.0
        self._leave_at = float("inf")
        self._stopping = False
        self._goodbye_text, self._goodbye_deconfigured = "", False
        self._actions: list[Action] = []
        self._events: list[NeighborEvent] = []

    # --- outside view -------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The furthest state of any connection, else Idle, Connect or Active."""
        order = list(State)
        states = [c.state for c in self._connections.values() if c.state is not State.IDLE]
        return max(states, key=order.index, default=self._idle_state)

    @property
    def connection(self) -> Connection | None:
        """The Established connection."""
        return self._connections.get(self._session) if self._session is not None else None

    @property
    def keeps_routes(self) -> bool:
        """Graceful restart is agreed: the peer keeps our routes when the connection ends without a NOTIFICATION."""
        session = self.connection
        return session is not None and session.negotiated is not None and session.negotiated.graceful_restart

    @property
    def stopped(self) -> bool:
        """After `stop`: nothing is left to be sent or waited for."""
        return self._stopping and not self._connections and self._dialing is None

    def actions(self) -> list[Action]:
        out, self._actions = self._actions, []
        return out

    def events(self) -> list[NeighborEvent]:
        out, self._events = self._events, []
        return out

    # --- wishes ---------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        self._stopping = False
        if self._idle_state is State.IDLE and not self._connections:
            self._idle_state = step(self._idle_state, Event.START)
            self._dial(now)

    def set_routes(self, desired: Mapping[Prefix, RouteAttributes], now: float) -> None:
        """Replace everything that should be advertised; only differences are sent."""
        self.rib.set(desired)
        self._flush(now)

    def flush(self, now: float) -> None:
        """Send what changed in `rib`."""
        if self.rib.dirty:
            self._flush(now)

    def stop(self, now: float, *, text: str = "", deconfigured: bool = False) -> None:
        """Leave in order. With graceful restart agreed, close so that the routes stay; else say that they
        go (GRACEFUL_SHUTDOWN), wait LEAVE_WAIT, then Cease."""
        if self._stopping:
            return
        self._stopping = True
        self._retry_at = float("inf")
        if self._dialing is not None:
            self._actions.append(Hangup(self._dialing))
            self._dialing = None
        session = self.connection
        keep = self.keeps_routes and not deconfigured
        for token, connection in list(self._connections.items()):
            if token != self._session or keep:
                notification = None if keep and token == self._session else self._goodbye(text, deconfigured)
                connection.close(Event.STOP, notification, "stopped", now)
                self._collect(token, now)
        if session is None or keep:
            self._idle_state = State.IDLE
            return
        self.rib.mark_leaving()
        self._flush(now, leaving=True)
        self._leave_at = now + LEAVE_WAIT
        self._goodbye_text, self._goodbye_deconfigured = text, deconfigured

    def reset(self, now: float, *, bfd: bool = False) -> None:
        """End the session and dial again: settings changed, or BFD says that the path is down."""
        notification = Notification(Code.CEASE, BFD_DOWN if bfd else CONFIGURATION_CHANGE)
        for token, connection in list(self._connections.items()):
            event = Event.BFD_DOWN if bfd else Event.STOP
            connection.close(event, notification, "BFD session down" if bfd else "configuration changed", now)
            self._collect(token, now)

    def hurry(self, now: float) -> None:
        """The peer is known to be there: an attempt that is waited for is made now."""
        if not (self._stopping or self._connections or self._dialing is not None) and now < self._retry_at < float(
            "inf"
        ):
            self._retry_at, self._backoff = now, 0.0

    def reconfigure(self, settings: Settings, now: float) -> None:
        """Take new settings: the session is reset, since an OPEN or the transport carries them."""
        self.settings = settings
        self.reset(now)
        if self._dialing is not None:  # an attempt with the old address or key is worth nothing
            self._actions.append(Hangup(self._dialing))
            self._dialing = None
        self._backoff = 0.0
        self._idle_state = State.IDLE
        if not self._connections and not self._stopping:
            self._retry_at = now

    def _goodbye(self, text: str, deconfigured: bool) -> Notification:
        if not deconfigured:
            return Notification.shutdown(text)
        agreed = self.connection.negotiated if self.connection else None
        if agreed is not None and agreed.graceful_restart and agreed.peer_notification:
            # Else the peer would keep our routes for the restart time (RFC 8538 section 3.1).
            return Notification(Code.CEASE, HARD_RESET, bytes((Code.CEASE, PEER_DECONFIGURED)))
        return Notification(Code.CEASE, PEER_DECONFIGURED)

    # --- what the edge tells ----------------------------------------------------------------------

    def _new_token(self) -> int:
        self._token += 1
        return self._token

    def _dial(self, now: float) -> None:
        self._dialing = self._new_token()
        self._retry_at = now + DIAL_TIMEOUT
        self._actions.append(Dial(self._dialing))

    def dialed(self, token: int, next_hops: Mapping[Family, Address | None], now: float) -> None:
        """The connection asked for by `Dial` stands. `next_hops`: own addresses that face the peer."""
        if token != self._dialing:
            self._actions.append(Hangup(token))
            return
        self._dialing, self._retry_at = None, float("inf")
        self._open(token, next_hops, now, incoming=False)

    def accepted(self, next_hops: Mapping[Family, Address | None], now: float) -> int | None:
        """The peer called. Returns the token, or None when the call is refused."""
        if self._stopping or sum(c.incoming for c in self._connections.values()) >= 1:
            # One incoming connection at a time: a peer that calls in a loop gains nothing by it.
            return None
        token = self._new_token()
        self._open(token, next_hops, now, incoming=True)
        return token

    def _open(self, token: int, next_hops: Mapping[Family, Address | None], now: float, *, incoming: bool) -> None:
        step(self._idle_state, Event.TCP_CONNECTED)
        self._connections[token] = Connection(self.settings, now, incoming=incoming, rng=self._rng)
        self._next_hops[token] = next_hops

    def dial_failed(self, token: int, reason: str, now: float) -> None:
        if token != self._dialing:
            return
        self._dialing = None
        self._idle_state = step(self._idle_state, Event.TCP_FAILED)
        self._failed(f"cannot connect: {reason}", now)

    def receive(self, token: int, data: bytes | None, now: float) -> None:
        """Octets on a connection; None: it was closed or failed."""
        connection = self._connections.get(token)
        if connection is not None:
            connection.receive(data, now)
            self._collect(token, now)

    def pending(self, token: int) -> bytes:
        connection = self._connections.get(token)
        return connection.pending() if connection is not None else b""

    def sent(self, token: int, count: int, now: float) -> None:
        connection = self._connections.get(token)
        if connection is not None:
            connection.sent(count, now)
            if token == self._session and self.rib.dirty and connection.backlog < BACKLOG:
                self._flush(now)

    # --- time -------------------------------------------------------------------------------------

    def deadline(self) -> float:
        times = [c.deadline() for c in self._connections.values()]
        return min(self._retry_at, self._leave_at, *times) if times else min(self._retry_at, self._leave_at)

    def on_deadline(self, now: float) -> None:
        if now >= self._leave_at:
            self._leave_at = float("inf")
            connection = self.connection
            if connection is not None and self._session is not None:
                notification = self._goodbye(self._goodbye_text, self._goodbye_deconfigured)
                connection.close(Event.STOP, notification, "stopped", now)
                self._collect(self._session, now)
        if now >= self._retry_at:
            if self._dialing is not None:  # the attempt took too long
                self._actions.append(Hangup(self._dialing))
                self._dialing = None
                self._failed("cannot connect: timed out", now)
            else:
                self._idle_state = step(self._idle_state, Event.CONNECT_RETRY_EXPIRES)
                self._dial(now)
        for token, connection in list(self._connections.items()):
            if now >= connection.deadline():
                connection.on_deadline(now)
                self._collect(token, now)

    # --- inside -----------------------------------------------------------------------------------

    def _failed(self, reason: str, now: float) -> None:
        """No connection is left: wait, then dial again."""
        self.last_error = reason
        self._events.append(AttemptFailed(reason))
        self._wait(now)

    def _wait(self, now: float) -> None:
        if self._stopping or self._connections or self._dialing is not None:
            return
        if self.settings.connect_time:
            delay = float(self.settings.connect_time)
        else:
            delay = self._backoff or BACKOFF_FIRST
            self._backoff = min(BACKOFF_LAST, delay * 2)
        self._retry_at = now + delay * self._rng.uniform(0.75, 1.0)

    def _collect(self, token: int, now: float) -> None:
        connection = self._connections[token]
        for event in connection.events():
            if isinstance(event, OpenReceived):
                self._resolve_collision(token, now)
            elif isinstance(event, Established):
                self._established(token, now)
            elif isinstance(event, RefreshWanted):
                self._refresh(event.family, now)
            else:
                self._closed(token, event, now)

    def _resolve_collision(self, token: int, now: float) -> None:
        """RFC 4271 section 6.8, RFC 6286 section 2.3, RFC 4724 section 5."""
        connection = self._connections[token]
        for other_token, other in list(self._connections.items()):
            if other_token == token or other.state in (State.IDLE, State.OPEN_SENT):
                continue
            theirs = connection.peer_open
            if theirs is None:
                return
            if other.state is State.ESTABLISHED:
                # A restarting peer's new connection replaces the old, dead one without a NOTIFICATION.
                restarted = other.negotiated is not None and other.negotiated.graceful_restart
                loser, notify = (other_token, False) if restarted else (token, True)
            else:
                ours_wins = (int(self.settings.identifier), self.settings.my_asn) > (int(theirs.identifier), theirs.asn)
                keep_incoming = not ours_wins
                loser = token if connection.incoming != keep_incoming else other_token
                notify = True
            notification = Notification(Code.CEASE, COLLISION) if notify else None
            self._connections[loser].close(Event.COLLISION, notification, "connection collision", now)
            if loser != token:
                self._collect(loser, now)

    def _established(self, token: int, now: float) -> None:
        self._session, self._up_at = token, now
        self.last_error = ""
        for other_token, other in list(self._connections.items()):
            if other_token != token:
                other.close(Event.STOP, Notification(Code.CEASE, COLLISION), "connection collision", now)
                self._collect(other_token, now)
        self._events.append(SessionUp())
        self.rib.restart()
        self._flush(now, initial=True)

    def _flush(self, now: float, *, leaving: bool = False, initial: bool = False) -> None:
        connection = self.connection
        if connection is None or connection.state is not State.ESTABLISHED or connection.negotiated is None:
            return
        if connection.backlog >= BACKLOG and not leaving:
            return
        n = connection.negotiated
        hops = self.usable_next_hops()
        messages = self.rib.flush(n, self.settings.my_asn, hops, leaving=leaving)
        self.updates_sent += len(messages)
        if initial:
            # End-of-RIB is useful to convergence without graceful restart, too (RFC 4724 section 2).
            messages += [end_of_rib(f) for f in n.families]
        connection.queue(messages, now)

    def usable_next_hops(self) -> dict[Family, Address | None]:
        """The next hop by family on this session; IPv4 over an IPv6 next hop only where agreed (RFC 8950)."""
        if self._session is None:
            return {}
        hops = dict(self._next_hops[self._session])
        connection = self.connection
        if connection is not None and connection.negotiated is not None and hops.get("ipv4") is None:
            hops["ipv4"] = hops.get("ipv6") if connection.negotiated.extended_next_hop else None
        return hops

    def _refresh(self, family: Family, now: float) -> None:
        connection = self.connection
        if connection is None or connection.negotiated is None:
            return
        marks = connection.negotiated.enhanced_refresh
        if marks:
            connection.queue([RouteRefresh(family, REFRESH_BEGIN).encode()], now)
        self.rib.resend(family)
        messages = self.rib.flush(connection.negotiated, self.settings.my_asn, self.usable_next_hops())
        self.updates_sent += len(messages)
        connection.queue(messages, now)
        if marks:
            connection.queue([RouteRefresh(family, REFRESH_END).encode()], now)

    def _closed(self, token: int, event: Closed, now: float) -> None:
        connection = self._connections.pop(token)
        self._next_hops.pop(token, None)
        self._actions.append(Hangup(token, connection.drain()))
        if token == self._session:
            self._session = None
            self._idle_state = State.IDLE
            if now - self._up_at >= STABLE:
                self._backoff = 0.0
            self.last_error = event.reason
            self._events.append(SessionDown(event.reason))
            self._wait(now)
        elif not self._connections and self._session is None:
            self._idle_state = State.IDLE
            self._failed(event.reason, now)
