"""One BFD session in asynchronous mode (RFC 5880 section 6.8), sans-IO, `now` in seconds.

The peer's packets come in by `receive`, ours leave by `pending`. Intervals inside are seconds.
The Echo function is in `echo.py`; echo packets leave by `echoes` and come back by `echo_returned`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import MappingProxyType

from .echo import Echo
from .lateness import Lateness
from .wire import Diagnostic, Packet, State

#: While not Up, no faster than once a second (RFC 5880 section 6.8.3).
SLOW = 1.0
#: AdminDown packets at the end of a session.
FAREWELLS = 3
_MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A BFD profile of the configuration. Intervals in seconds."""

    receive_interval: float = 0.3
    transmit_interval: float = 0.3
    detect_multiplier: int = 3
    echo_interval: float = 0.05
    echo_mode: bool = False
    passive_mode: bool = False
    minimum_ttl: int = 254  # multihop only; one hop always asks for 255 (RFC 5881 section 5)


@dataclass(frozen=True, slots=True)
class Up:
    """The session is Up."""


@dataclass(frozen=True, slots=True)
class Down:
    """The session was Up, and is no more.

    `by_operator`: one side was taken down by its operator. The path is not known to be broken, so
    clients keep their own sessions (RFC 5882 section 3.2).
    """

    diagnostic: Diagnostic
    by_operator: bool = False


SessionEvent = Up | Down

_S = State
#: (our state, state in the packet) -> next state: RFC 5880 section 6.8.6. A pair that is not here changes nothing.
TABLE: MappingProxyType[tuple[State, State], State] = MappingProxyType(
    {
        (_S.DOWN, _S.DOWN): _S.INIT,
        (_S.DOWN, _S.INIT): _S.UP,
        (_S.INIT, _S.INIT): _S.UP,
        (_S.INIT, _S.UP): _S.UP,
        (_S.INIT, _S.ADMIN_DOWN): _S.DOWN,
        (_S.UP, _S.DOWN): _S.DOWN,
        (_S.UP, _S.ADMIN_DOWN): _S.DOWN,
    }
)


class Session:
    """Keeps one session with one peer; says when it comes Up and when it goes Down, once each."""

    def __init__(
        self,
        profile: Profile,
        discriminator: int,
        now: float,
        rng: random.Random | None = None,
        lateness: Lateness | None = None,
    ) -> None:
        """`lateness` counts how late packets leave; it may be shared by sessions."""
        if discriminator == 0:
            raise ValueError("a discriminator is never zero (RFC 5880 section 6.8.1)")
        self.profile = profile
        self.discriminator = discriminator
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.packets_in = self.packets_out = 0
        self.up_events = self.down_events = 0
        self._rng = rng or random.Random()  # noqa: S311 - spreads packets in time, guards no secret
        self.echo = Echo(discriminator, self._rng)
        self._lateness = lateness or Lateness()
        self._remote_min_echo = 0  # microseconds; 0: the peer loops no echo packets back
        self._remote_state = State.DOWN
        self._remote_demand = False
        self._remote_discriminator = 0
        self._remote_min_rx = 1  # microseconds; RFC 5880 section 6.8.1: initially 1
        self._remote_min_tx = 0.0
        self._remote_multiplier = 0
        self._tx_interval = SLOW  # what we use; may lag what we ask for until a Poll is answered
        self._required_rx = profile.receive_interval  # bfd.RequiredMinRxInterval, as we say it
        self._detect_rx = profile.receive_interval  # as the peer is known to have heard it
        self._polling = False
        self._poll_again = False  # something changed while a Poll was under way
        self._last_heard: float | None = None
        self._tx_at = float("inf") if profile.passive_mode else now
        self._out: list[bytes] = []
        self._events: list[SessionEvent] = []

    # --- packets ------------------------------------------------------------------------------

    @property
    def remote_discriminator(self) -> int:
        return self._remote_discriminator

    def _wanted_tx(self) -> float:
        """bfd.DesiredMinTxInterval: slow until Up (RFC 5880 section 6.8.3)."""
        return self.profile.transmit_interval if self.state is State.UP else max(SLOW, self.profile.transmit_interval)

    def detection_time(self) -> float:
        """Seconds of silence after which the peer is down (RFC 5880 section 6.8.4)."""
        return self._remote_multiplier * max(self._detect_rx, self._remote_min_tx)

    def _packet(self, *, final: bool = False) -> bytes:
        self.packets_out += 1
        return Packet(
            state=self.state,
            diagnostic=self.diagnostic,
            detect_multiplier=self.profile.detect_multiplier,
            my_discriminator=self.discriminator,
            your_discriminator=self._remote_discriminator,
            desired_min_tx=round(self._wanted_tx() * _MICRO),
            required_min_rx=round(self._required_rx * _MICRO),
            required_min_echo_rx=round(self.profile.echo_interval * _MICRO) if self._loops_echo() else 0,
            poll=self._polling and not final,
            final=final,
            # The announcer is not the forwarding plane, but its end does not stop the kernel's forwarding:
            # C stays 0 because its end does end the packets (RFC 5880 section 4.1).
        ).encode()

    def _loops_echo(self) -> bool:
        """Said only where it is true: the profile wants it, and this node forwards (RFC 5880 section 6.8.9)."""
        return self.profile.echo_mode and self.echo.looped_here

    def set_echo(self, *, path: bool, looped_here: bool, now: float) -> None:
        """What the edge knows: whether it can send echo packets, and whether this node loops the peer's."""
        self.echo.path = path
        if looped_here != self.echo.looped_here:
            said = self._loops_echo()
            self.echo.looped_here = looped_here
            if said != self._loops_echo():
                self._poll(now)
        self._follow_echo(now)

    def _follow_echo(self, now: float) -> None:
        """Echo runs while Up, wished for, possible, and looped by the peer (RFC 5880 section 6.8.9)."""
        wanted = self.state is State.UP and self.profile.echo_mode and self._remote_min_echo > 0
        interval = max(self.profile.echo_interval, self._remote_min_echo / _MICRO)
        self.echo.run(interval if wanted else None, self.profile.detect_multiplier, now)
        self._follow_rx(now)

    def _follow_rx(self, now: float) -> None:
        """How often we want to hear of the peer: rarely while echo packets watch the path (RFC 5880 section 6.8.3).

        A shorter interval holds for detection only when the peer has heard of it: until then it sends as before.
        """
        wanted = max(SLOW, self.profile.receive_interval) if self.echo.active else self.profile.receive_interval
        if wanted == self._required_rx:
            return
        self._required_rx = wanted
        if self.state is not State.UP or wanted > self._detect_rx:
            self._detect_rx = wanted
        self._poll(now)

    def _poll(self, now: float) -> None:
        """While Up, tell the peer by a Poll sequence what has changed (RFC 5880 section 6.5)."""
        if self.state is State.UP:
            self._poll_again = self._polling
            self._polling = True
            self._send_soon(now)

    def receive(self, packet: Packet, now: float) -> None:
        """A packet that was decoded, checked for TTL, and found to be this session's."""
        self.packets_in += 1
        if self.state is State.ADMIN_DOWN:
            return
        self._remote_discriminator = packet.my_discriminator
        self._remote_state = packet.state
        self._remote_multiplier = packet.detect_multiplier
        self._remote_min_tx = packet.desired_min_tx / _MICRO
        self._remote_demand = packet.demand
        if packet.required_min_rx != self._remote_min_rx:
            self._remote_min_rx = packet.required_min_rx
            self._reschedule(now)
        if packet.final and self._polling:
            # A Final may answer a Poll from before the last change: then the next one counts.
            self._polling, self._poll_again = self._poll_again, False
            if not self._polling:
                self._tx_interval = self._wanted_tx()
                self._detect_rx = self._required_rx
                self._reschedule(now)
        self._last_heard = now
        self._remote_min_echo = packet.required_min_echo_rx
        self._step(packet.state, now)
        self._follow_echo(now)
        if self._is_excused():
            self._tx_at = float("inf")
        elif self._tx_at == float("inf") and self._remote_min_rx:
            self._tx_at = now  # passive: the peer has called, so we answer (RFC 5880 section 6.1)
        if packet.poll:
            self._out.append(self._packet(final=True))

    def _step(self, remote: State, now: float) -> None:
        target = TABLE.get((self.state, remote), self.state)
        if target is self.state:
            return
        if target is State.UP:
            self._rise(now)
        elif self.state is State.UP:
            self._fall(Diagnostic.NEIGHBOR_DOWN, now)
        else:
            if target is State.DOWN:
                self.diagnostic = Diagnostic.NEIGHBOR_DOWN
            self.state = target
            self._send_soon(now)  # a session is up in three packets

    def _rise(self, now: float) -> None:
        self.state, self.diagnostic = State.UP, Diagnostic.NONE
        self.up_events += 1
        self._events.append(Up())
        # The faster rate that we now ask for is announced by a Poll sequence (RFC 5880 section 6.8.3); a
        # decrease of our own interval may be used at once.
        self._polling = True
        self._tx_interval = self._wanted_tx()
        self._send_soon(now)

    def _fall(self, diagnostic: Diagnostic, now: float) -> None:
        self.state, self.diagnostic = State.DOWN, diagnostic
        self.down_events += 1
        self._events.append(Down(diagnostic, self._remote_state is State.ADMIN_DOWN))
        self._polling = self._poll_again = False
        self._detect_rx = self._required_rx
        self._tx_interval = self._wanted_tx()
        self._send_soon(now)
        self._follow_echo(now)

    # --- time ---------------------------------------------------------------------------------

    def _is_excused(self) -> bool:
        """In Demand mode the peer wants no periodic packets, but those of a Poll sequence (RFC 5880 section 6.8.7)."""
        both_up = self.state is State.UP and self._remote_state is State.UP
        return self._remote_demand and both_up and not self._polling

    def _interval(self) -> float:
        """Seconds to the next packet, with the jitter of RFC 5880 section 6.8.7."""
        base = max(self._tx_interval, self._remote_min_rx / _MICRO)
        high = 0.90 if self.profile.detect_multiplier == 1 else 1.0
        return base * self._rng.uniform(0.75, high)

    def _send_soon(self, now: float) -> None:
        """Tell the peer at once, unless it wants no periodic packets (RFC 5880 section 6.8.7)."""
        if self._remote_min_rx:
            self._tx_at = min(self._tx_at, now)

    def _reschedule(self, now: float) -> None:
        """The interval changed: the next packet leaves no later than the new one says."""
        if self._remote_min_rx == 0 or self._is_excused():  # the peer wants none (RFC 5880 section 6.8.3)
            self._tx_at = float("inf")
        elif self._tx_at != float("inf") or not self.profile.passive_mode:
            self._tx_at = min(self._tx_at, now + self._interval())

    def _detect_at(self) -> float:
        if self.state is State.ADMIN_DOWN or self._last_heard is None or not self._remote_multiplier:
            return float("inf")
        return self._last_heard + self.detection_time()

    def deadline(self) -> float:
        return min(self._tx_at, self._detect_at(), self.echo.deadline())

    def on_deadline(self, now: float) -> None:
        if now >= self._detect_at():
            self._expire(now)
        elif now >= self.echo.fails_at:
            self._fall(Diagnostic.ECHO_FAILED, now)
        self.echo.on_deadline(now)
        if now >= self._tx_at:
            if self.state is State.UP:
                self._lateness.add(now - self._tx_at)
            self._out.append(self._packet())
            self._tx_at = now + self._interval()

    def _expire(self, now: float) -> None:
        if self.state is State.UP:
            self._fall(Diagnostic.DETECTION_EXPIRED, now)
        elif self.state is State.INIT:
            self.state, self.diagnostic = State.DOWN, Diagnostic.DETECTION_EXPIRED
        # Forget it after a detection time of silence, in Down as well: a peer that was made anew takes no packet
        # with the discriminator that it had (RFC 5880 sections 6.8.1 and 6.8.6).
        self._remote_discriminator = 0
        self._last_heard = None
        if self._remote_min_rx == 0 and not self.profile.passive_mode:
            self._tx_at = now
        self._remote_min_rx = 1
        if self.profile.passive_mode:
            self._tx_at = float("inf")

    # --- wishes -------------------------------------------------------------------------------

    def set(self, profile: Profile, now: float) -> None:
        """Take new timers. While Up they are negotiated by a Poll sequence; the session stays Up."""
        if profile == self.profile:
            return
        slower = profile.transmit_interval > self.profile.transmit_interval
        self.profile, said = profile, self._required_rx
        if not profile.passive_mode and self._tx_at == float("inf") and self._remote_min_rx:
            self._tx_at = now  # it waited for the peer's call
        self._follow_echo(now)
        if self.state is State.UP:
            if said == self._required_rx:  # else a Poll was begun for that
                self._poll(now)
            if not slower:  # an increase waits for the Final (RFC 5880 section 6.8.3)
                self._tx_interval = self._wanted_tx()

    def shutdown(self, now: float) -> None:
        """AdminDown: the peer takes the session down without taking the path for broken (RFC 5882 section 3.2)."""
        was_up = self.state is State.UP
        self.state, self.diagnostic = State.ADMIN_DOWN, Diagnostic.ADMIN_DOWN
        self._polling = False
        if was_up:
            self.down_events += 1
            self._events.append(Down(Diagnostic.ADMIN_DOWN, by_operator=True))
        self._follow_echo(now)
        # More than one: of a session that is not wanted any more nobody sends another (RFC 5880 section 6.8.16 asks
        # for a detection time of them), and a peer that has lost the one takes the path for broken.
        self._out += [self._packet() for _ in range(FAREWELLS)]
        self._tx_interval = SLOW
        self._tx_at = now + self._interval() if self._remote_min_rx else float("inf")

    def pending(self) -> list[bytes]:
        """Control packets to send now."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[SessionEvent]:
        out, self._events = self._events, []
        return out
