"""One BGP neighbour: when to dial, which of two connections stays, what is advertised, how to leave.

Sans-IO. The edge acts on `actions()` (Dial, Hangup) and tells what happened: `dialed`, `dial_failed`,
`accepted`, `receive`, `sent`. Connections are named by tokens that the neighbour hands out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from .connection import Closed, Connection, Established, OpenReceived
from .fsm import Event, State, step
from .refresh import Refreshes
from .rib import RibOut, RouteAttributes
from .settings import Address, Negotiated, Settings
from .wire.capabilities import Family
from .wire.errors import (
    BFD_DOWN,
    COLLISION,
    CONFIGURATION_CHANGE,
    HARD_RESET,
    PEER_DECONFIGURED,
    UNSUPPORTED_PARAMETER,
    Code,
)
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

    def __init__(
        self, settings: Settings, rng: random.Random | None = None, tokens: Iterator[int] | None = None
    ) -> None:
        """`tokens`: shared by neighbours that follow each other under one name, so that no connection is mixed up."""
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
        self._tokens = tokens or itertools.count(1)
        self._retry_at = float("inf")
        self._backoff = 0.0
        self._up_at = 0.0
        self._leave_at = float("inf")
        self._stopping = False
        self._refreshes = Refreshes()
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

    def carries(self, token: int) -> bool:
        """Whether this connection is the Established one."""
        return token == self._session

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
        self._leave_at = now + LEAVE_WAIT
        self.rib.mark_leaving()
        self._flush(now)
        self._goodbye_text, self._goodbye_deconfigured = text, deconfigured

    def leave_now(self, now: float) -> None:
        """After `stop`: wait no longer."""
        if self._leave_at < float("inf"):
            self._leave_at = now
            self.on_deadline(now)

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

    def adjust(self, settings: Settings, now: float) -> None:
        """Take settings that concern this side alone: the session stays."""
        self.settings = settings
        for connection in self._connections.values():
            connection.adjust(settings, now)

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

    def _dial(self, now: float) -> None:
        self._dialing = next(self._tokens)
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
        if self._stopping:
            return None
        # One call at a time: a peer that calls in a loop gains nothing by it. One that has not said a word gives way,
        # since its caller may be gone. Beside a session that stands one more is taken: the peer may have restarted,
        # and its OPEN tells (RFC 4724 section 5).
        for token, connection in list(self._connections.items()):
            if connection.incoming and token != self._session:
                if connection.state is not State.OPEN_SENT:
                    return None
                notification = Notification(Code.CEASE, COLLISION)
                connection.close(Event.STOP, notification, "the peer called again", now)
                self._collect(token, now)
        token = next(self._tokens)
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

    def receive(self, token: int, data: bytes | None, now: float) -> int:
        """Octets on a connection; None: it was closed or failed. The number of messages in them."""
        connection = self._connections.get(token)
        if connection is None:
            return 0
        count = connection.receive(data, now)
        self._collect(token, now)
        return count

    def pending(self, token: int) -> bytes:
        connection = self._connections.get(token)
        return connection.pending() if connection is not None else b""

    def sent(self, token: int, count: int, now: float) -> None:
        connection = self._connections.get(token)
        if connection is not None:
            connection.sent(count, now)
            if token == self._session and connection.backlog < BACKLOG:
                self._refresh(now)
                self.flush(now)

    # --- time -------------------------------------------------------------------------------------

    def deadline(self) -> float:
        times = [c.deadline() for c in self._connections.values()]
        if self.connection is not None and self.connection.backlog < BACKLOG:
            times.append(self._refreshes.deadline())
        return min(self._retry_at, self._leave_at, *times)

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
        self._refresh(now)
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
        while events := connection.events():  # again: what is done about one may end the connection
            for event in events:
                if isinstance(event, Closed):
                    self._closed(token, event, now)
                elif connection.over:
                    continue  # one read brought its end, too: what was wanted before means nothing any more
                elif isinstance(event, OpenReceived):
                    self._resolve_collision(token, now)
                elif isinstance(event, Established):
                    self._established(token, now)
                else:
                    self._refreshes.want(event.family)
                    self._refresh(now)

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
                # A restarting peer's new connection replaces the old, dead one without a NOTIFICATION. Its own: one
                # that we have opened says nothing about the peer.
                agreed = other.negotiated is not None and other.negotiated.graceful_restart
                restarted = agreed and connection.incoming
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
        self._retry_at = float("inf")
        if self._dialing is not None:  # the peer called while we did
            self._actions.append(Hangup(self._dialing))
            self._dialing = None
        self.last_error = ""
        self._refreshes = Refreshes()
        self.settings = replace(self.settings, restarting=False)  # the R bit is for the first OPEN (RFC 4724 section 3)
        for other_token, other in list(self._connections.items()):
            if other_token != token:
                other.close(Event.STOP, Notification(Code.CEASE, COLLISION), "connection collision", now)
                self._collect(other_token, now)
        self._events.append(SessionUp())
        self.rib.restart()
        self._flush(now, initial=True)

    def _flush(self, now: float, *, initial: bool = False) -> None:
        connection = self.connection
        if connection is None or connection.state is not State.ESTABLISHED or connection.negotiated is None:
            return
        leaving = self._leave_at < float("inf")
        if connection.backlog >= BACKLOG and not leaving:
            return
        n = connection.negotiated
        messages = self._updates(n)
        if initial:
            # End-of-RIB is useful to convergence without graceful restart, too (RFC 4724 section 2).
            messages += [end_of_rib(f) for f in n.families]
        connection.queue(messages, now)

    def _updates(self, negotiated: Negotiated) -> list[bytes]:
        """Messages for what is dirty; everything says that it is about to go while we leave."""
        hops, leaving = self.usable_next_hops(), self._leave_at < float("inf")
        messages = self.rib.flush(negotiated, self.settings.my_asn, hops, leaving=leaving)
        self.updates_sent += len(messages)
        return messages

    def usable_next_hops(self) -> dict[Family, Address | None]:
        """The next hop by family on this session; IPv4 over an IPv6 next hop only where agreed (RFC 8950)."""
        if self._session is None:
            return {}
        hops = dict(self._next_hops[self._session])
        connection = self.connection
        if connection is not None and connection.negotiated is not None and hops.get("ipv4") is None:
            hops["ipv4"] = hops.get("ipv6") if connection.negotiated.extended_next_hop else None
        return hops

    @property
    def lacks_next_hop(self) -> bool:
        """Routes of an agreed family cannot be sent: this node had no address of it where the session is."""
        session = self.connection
        if session is None or session.negotiated is None:
            return False
        hops = self.usable_next_hops()
        return any(hops.get(family) is None for family in session.negotiated.families)

    def set_next_hops(self, next_hops: Mapping[Family, Address | None], now: float) -> None:
        """Own addresses that face the peer, as they are now: routes with another next hop are sent again."""
        if self._session is None:
            return
        before = self.usable_next_hops()
        self._next_hops[self._session] = next_hops
        after = self.usable_next_hops()
        for family in after:
            if after[family] is None and before.get(family) is not None:
                self.rib.review(family)  # withdrawn: what the peer has leads to an address that is not ours
            elif after[family] != before.get(family):
                self.rib.resend(family)
        self.flush(now)

    def _refresh(self, now: float) -> None:
        """Answer what is due; asking again and again without reading gains nothing."""
        connection = self.connection
        if connection is None or connection.negotiated is None or connection.backlog >= BACKLOG:
            return
        marks = connection.negotiated.enhanced_refresh
        for family in self._refreshes.take(now):
            if marks:
                connection.queue([RouteRefresh(family, REFRESH_BEGIN).encode()], now)
            self.rib.resend(family)
            connection.queue(self._updates(connection.negotiated), now)
            if marks:
                connection.queue([RouteRefresh(family, REFRESH_END).encode()], now)

    def _closed(self, token: int, event: Closed, now: float) -> None:
        connection = self._connections.pop(token)
        self._next_hops.pop(token, None)
        self._actions.append(Hangup(token, connection.drain()))
        # A peer that knows no capabilities says so, and is asked without them (RFC 5492 section 3), every other time.
        said = event.received
        refused = said is not None and (said.code, said.subcode) == (Code.OPEN, UNSUPPORTED_PARAMETER)
        plain = refused and not connection.settings.plain and "ipv4" in self.settings.families
        self.settings = replace(self.settings, plain=plain)
        if token == self._session:
            self._session = None
            self._idle_state = State.IDLE if self._dialing is None else State.CONNECT
            if now - self._up_at >= STABLE:
                self._backoff = 0.0
            self.last_error = event.reason
            self._events.append(SessionDown(event.reason))
            self._wait(now)
        elif not self._connections and self._session is None:
            self._idle_state = State.IDLE if self._dialing is None else State.CONNECT
            self._failed(event.reason, now)
