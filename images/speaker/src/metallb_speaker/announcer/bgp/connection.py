"""One TCP connection's half of the BGP machine: OpenSent to the end (RFC 4271 section 8.2.2).

RFC 4271 section 8.2.1 gives each connection its own state; the states before a connection exists
(Idle, Connect, Active) and the choice between two connections are the neighbour's (`neighbor.py`).
Sans-IO: bytes in by `receive`, bytes out by `pending`/`sent`, time as `now` in seconds.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from .fsm import Event, IllegalEvent, State, step
from .settings import Negotiated, Settings
from .wire.capabilities import Family
from .wire.errors import FSM_ESTABLISHED, FSM_OPEN_CONFIRM, FSM_OPEN_SENT, Code, NotificationError
from .wire.framing import HEADER, KEEPALIVE, MAX_EXTENDED, MAX_MESSAGE, Framer, MessageType
from .wire.messages import REFRESH_REQUEST, Notification, Open, RouteRefresh

#: The hold timer while waiting for the peer's OPEN (RFC 4271 section 8.2.2 suggests four minutes).
OPEN_HOLD = 240.0
#: RFC 9687 section 4: the greater of eight minutes and twice the hold time.
SEND_HOLD = 480.0
#: Octets of one send; also what keeps a slow peer from growing our memory (the rest stays routes).
CHUNK = 1 << 16

#: How the reason of an end begins that the peer has told.
PEER_SAID = "peer sent NOTIFICATION"

_UNEXPECTED = {
    State.OPEN_SENT: FSM_OPEN_SENT,
    State.OPEN_CONFIRM: FSM_OPEN_CONFIRM,
    State.ESTABLISHED: FSM_ESTABLISHED,
}


@dataclass(frozen=True, slots=True)
class OpenReceived:
    """The peer's OPEN is good; collisions are judged now."""


@dataclass(frozen=True, slots=True)
class Established:
    """Routes may flow."""


@dataclass(frozen=True, slots=True)
class RefreshWanted:
    """The peer asks for everything of a family again (RFC 2918)."""

    family: Family


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over; `pending` may still hold a NOTIFICATION to flush before closing."""

    reason: str
    sent: Notification | None = None
    received: Notification | None = None


ConnectionEvent = OpenReceived | Established | RefreshWanted | Closed


class Connection:
    """Starts in OpenSent, with OPEN queued. Ends in Idle, after exactly one `Closed`."""

    def __init__(self, settings: Settings, now: float, *, incoming: bool, rng: random.Random | None = None) -> None:
        self.settings = settings
        self.incoming = incoming
        self.state = State.OPEN_SENT
        self.peer_open: Open | None = None
        self.negotiated: Negotiated | None = None
        self.updates_received = 0
        self._rng = rng or random.Random()  # noqa: S311 - spreads timers, guards no secret
        self._framer = Framer()
        self._out: deque[bytes] = deque()
        self._backlog = 0
        self._hold_at = now + OPEN_HOLD
        self._keepalive_at = float("inf")
        self._stalled_since: float | None = None  # the peer has taken nothing since then
        self._events: list[ConnectionEvent] = []
        self._queue(settings.open().encode(), now)

    @property
    def over(self) -> bool:
        return self.state is State.IDLE

    # --- bytes ------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Octets queued and not sent yet."""
        return self._backlog

    def queue(self, messages: list[bytes], now: float) -> None:
        """Queue whole messages; only while Established."""
        if self.state is not State.ESTABLISHED:
            raise IllegalEvent(f"UPDATE to send in {self.state.value}")
        for message in messages:
            self._queue(message, now)

    def _queue(self, message: bytes, now: float) -> None:
        if not self._out:
            self._stalled_since = now
        self._out.append(message)
        self._backlog += len(message)

    def pending(self) -> bytes:
        """Up to CHUNK octets to send now, or b"". Tell what was taken with `sent`."""
        if not self._out:
            return b""
        if len(self._out[0]) >= CHUNK or len(self._out) == 1:
            return self._out[0]
        parts, size = [], 0
        while self._out and size + len(self._out[0]) <= CHUNK:
            size += len(self._out[0])
            parts.append(self._out.popleft())
        joined = b"".join(parts)
        self._out.appendleft(joined)
        return joined

    def sent(self, count: int, now: float) -> None:
        """`count` octets of `pending` were taken by the transport."""
        if count <= 0:
            return
        head = self._out.popleft()
        if count < len(head):
            self._out.appendleft(head[count:])
        self._backlog -= count
        self._stalled_since = now if self._out else None

    def drain(self) -> bytes:
        """All octets that are queued, once the connection is over."""
        out = b"".join(self._out)
        self._out.clear()
        self._backlog = 0
        return out

    def receive(self, data: bytes | None, now: float) -> int:
        """Octets from the peer; None when the transport is closed or failed. The number of messages in them."""
        if self.state is State.IDLE:
            return 0
        if data is None:
            self._end(Event.TCP_FAILED, "connection closed by the peer")
            return 0
        count = 0
        try:
            for kind, body in self._framer.feed(data):
                count += 1
                self._message(kind, body, now)
                if self.over:
                    break
        except NotificationError as error:
            event = {Code.OPEN: Event.OPEN_ERROR, Code.UPDATE: Event.UPDATE_ERROR}.get(
                Code(error.code), Event.HEADER_ERROR
            )
            self._refuse(event, error, now)
        return count

    def _message(self, kind: MessageType, body: bytes, now: float) -> None:
        if kind is MessageType.NOTIFICATION:
            received = Notification.decode(body)
            self._end(Event.NOTIFICATION, f"{PEER_SAID}: {received}", received=received)
            return
        allowed = {
            MessageType.OPEN: State.OPEN_SENT,
            MessageType.UPDATE: State.ESTABLISHED,
            MessageType.ROUTE_REFRESH: State.ESTABLISHED,
        }.get(kind)
        if (allowed is not None and self.state is not allowed) or (
            kind is MessageType.KEEPALIVE and self.state is State.OPEN_SENT
        ):
            # RFC 6608: tell in which state the message was unexpected.
            raise NotificationError(Code.FSM, _UNEXPECTED[self.state], bytes((kind,)))
        self._restart_hold(now)
        if kind is MessageType.UPDATE:
            self.updates_received += 1
        elif kind is MessageType.KEEPALIVE:
            before, self.state = self.state, step(self.state, Event.KEEPALIVE_RECEIVED)
            if before is State.OPEN_CONFIRM:
                self._events.append(Established())
        elif kind is MessageType.ROUTE_REFRESH:
            refresh = RouteRefresh.decode(body)
            # A family that was not agreed, or a subtype that means nothing, is ignored (RFC 2918 section 4, RFC 7313
            # section 5).
            wanted = RefreshWanted(refresh.family) if refresh.subtype == REFRESH_REQUEST and refresh.family else None
            if wanted and self.negotiated and wanted.family in self.negotiated.families and wanted not in self._events:
                self._events.append(wanted)
        else:
            self._opened(Open.decode(body), now)

    def _opened(self, theirs: Open, now: float) -> None:
        self.settings.check(theirs)
        self.state = step(self.state, Event.OPEN_RECEIVED)
        self.peer_open = theirs
        self.negotiated = Negotiated.of(self.settings, theirs)
        # Both sides announced RFC 8654 support, or only we: what we accept is ours to say.
        self._framer.maximum = MAX_EXTENDED
        self._restart_hold(now)
        self._send_keepalive(now)
        self._events.append(OpenReceived())

    def adjust(self, settings: Settings, now: float) -> None:
        """Another time between keepalives; nothing else that was agreed may differ."""
        self.settings = settings
        if self.negotiated is not None and self.peer_open is not None and not self.over:
            self.negotiated = Negotiated.of(settings, self.peer_open)
            self._keepalive_at = min(self._keepalive_at, self._next_keepalive(now))

    # --- time -------------------------------------------------------------------------------

    def _restart_hold(self, now: float) -> None:
        if self.negotiated is not None:
            self._hold_at = now + self.negotiated.hold_time if self.negotiated.hold_time else float("inf")

    def _send_keepalive(self, now: float) -> None:
        self._queue(KEEPALIVE, now)
        self._keepalive_at = self._next_keepalive(now)

    def _next_keepalive(self, now: float) -> float:
        interval = self.negotiated.keepalive_time if self.negotiated else 0
        # Jitter of RFC 4271 section 10: 75 to 100 %.
        return now + interval * self._rng.uniform(0.75, 1.0) if interval else float("inf")

    def _send_hold_at(self) -> float:
        if self._stalled_since is None or self.negotiated is None or not self.negotiated.hold_time:
            return float("inf")
        return self._stalled_since + max(SEND_HOLD, 2 * self.negotiated.hold_time)

    def deadline(self) -> float:
        """The next moment at which `on_deadline` does something; infinity when closed."""
        if self.state is State.IDLE:
            return float("inf")
        return min(self._hold_at, self._keepalive_at, self._send_hold_at())

    def on_deadline(self, now: float) -> None:
        if self.state is State.IDLE:
            return
        if now >= self._hold_at:
            self._refuse(Event.HOLD_EXPIRES, NotificationError(Code.HOLD_TIMER_EXPIRED), now)
        elif now >= self._send_hold_at():
            # The peer reads nothing, so a NOTIFICATION cannot reach it: close without one (RFC 9687 section 4).
            self._out.clear()
            self._backlog = 0
            self._end(Event.SEND_HOLD_EXPIRES, "send hold timer expired: the peer takes no data")
        elif now >= self._keepalive_at:
            self.state = step(self.state, Event.KEEPALIVE_EXPIRES)
            self._send_keepalive(now)

    # --- ends -------------------------------------------------------------------------------

    def close(self, event: Event, notification: Notification | None, reason: str, now: float) -> None:
        """End from our side. Without a NOTIFICATION a graceful-restart helper keeps our routes."""
        if self.state is State.IDLE:
            return
        if notification is not None:
            self._drop_unsent()
            self._queue(notification.encode(), now)
        self._end(event, reason, sent=notification)

    def _drop_unsent(self) -> None:
        """Forget whole queued messages, so that the NOTIFICATION is not stuck behind a table.

        The first entry may be partly sent: a stream that is cut inside a message cannot be mended, so it stays.
        """
        while len(self._out) > 1:
            self._backlog -= len(self._out.pop())

    def _refuse(self, event: Event, error: NotificationError, now: float) -> None:
        room = (self.negotiated.maximum if self.negotiated else MAX_MESSAGE) - HEADER - 2
        self.close(
            event, Notification(error.code, error.subcode, error.data[:room]), f"sent NOTIFICATION: {error}", now
        )

    def _end(
        self, event: Event, reason: str, *, sent: Notification | None = None, received: Notification | None = None
    ) -> None:
        try:
            step(self.state, event)
        except IllegalEvent:
            # An error event that this state does not name ends the session all the same
            # (RFC 4271 section 8.2.2: "any other event" goes to Idle).
            step(self.state, Event.STOP)
        self.state = State.IDLE
        self._events.append(Closed(reason, sent, received))

    def events(self) -> list[ConnectionEvent]:
        """What happened since the last call."""
        out, self._events = self._events, []
        return out
