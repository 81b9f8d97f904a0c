"""Duplicate address check: does a host that is no speaker hold the address (RFC 5227; RFC 4862 section 5.4)?

Optimistic, so that it costs no time: one probe, a few milliseconds of listening, then the address is
answered for while the other probes go out. What the machine is told and what follows is one table::

    state      silence of the grace   foreign answer       probes done / silence
    CHECKING   TRUSTING: announce     WITHHELD: report     -
    TRUSTING   -                      WITHHELD: retract    SETTLED
    SETTLED    -                      DEFENDING: report    -
    DEFENDING  -                      DEFENDING: announce  SETTLED: conflict gone
    WITHHELD   -                      WITHHELD             TRUSTING: announce, conflict gone

WITHHELD is for a host that was there before us; DEFENDING for one that came after (RFC 5227 section 2.4 (b)).
An address that is not on-link at the interface is never withheld: there it may be a router that answers
for everything beyond it (proxy ARP), and 0.12 would have announced it.
"""

from __future__ import annotations

from collections.abc import Container, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from metallb_speaker.announcer.layer2.timers import Timers

#: Listening before the first answer. A LAN's round trip is below 1 ms; RFC 5227 waits seconds, which is an outage.
GRACE: Final = 0.002
#: The later probes, seconds after the first: PROBE_NUM is 3, PROBE_MIN 1 s (RFC 5227 section 1.1).
LATER: Final = (1.0, 2.0)
ANSWER_WAIT: Final = 1.0  # after the last one, until the address counts as ours
SETTLED_EVERY: Final = 300.0  # background probe of a settled address
CONFLICT_EVERY: Final = 3.0  # probe of an address in conflict
CONFLICT_MISSES: Final = 2  # this many unanswered ones: the other host is gone
DEFEND_INTERVAL: Final = 10.0  # RFC 5227 section 1.1
TELL_INTERVAL: Final = 10.0  # another MAC address is told this often: whoever forges them must not fill our log

K = TypeVar("K", bound=Hashable)


class State(Enum):
    CHECKING = "checking"
    TRUSTING = "trusting"
    SETTLED = "settled"
    DEFENDING = "defending"
    WITHHELD = "withheld"


class Input(Enum):
    GRACE_OVER = "graceOver"
    FOREIGN = "foreign"
    QUIET = "quiet"  # the probes are done, or the other host has fallen silent


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.CHECKING, Input.GRACE_OVER): State.TRUSTING,
    (State.CHECKING, Input.FOREIGN): State.WITHHELD,
    (State.TRUSTING, Input.FOREIGN): State.WITHHELD,
    (State.TRUSTING, Input.QUIET): State.SETTLED,
    (State.SETTLED, Input.FOREIGN): State.DEFENDING,
    (State.DEFENDING, Input.FOREIGN): State.DEFENDING,
    (State.DEFENDING, Input.QUIET): State.SETTLED,
    (State.WITHHELD, Input.FOREIGN): State.WITHHELD,
    (State.WITHHELD, Input.QUIET): State.TRUSTING,
}
ANSWERING: Final = frozenset((State.TRUSTING, State.SETTLED, State.DEFENDING))


@dataclass(slots=True)
class _Check:
    state: State
    strict: bool  # may be withheld
    probes: int = 0  # sent in this state
    unanswered: int = 0
    defended: float = -1e9
    told: float = -1e9


@dataclass(frozen=True, slots=True)
class Step(Generic[K]):
    """What to do for `key`: send a probe, or follow a change of state."""

    key: K
    probe: bool = False
    before: State | None = None
    after: State | None = None
    mac: bytes = b""  # the foreign host, when it is to be reported
    announce: bool = False  # defend: announce once


class Duplicates(Generic[K]):
    """The checks of all addresses. Verbs return the steps that follow; the caller acts."""

    def __init__(self, grace: float = GRACE) -> None:
        self._grace = grace
        self._checks: dict[K, _Check] = {}
        self._foreign: dict[K, bytes] = {}  # key in conflict -> MAC address of the foreign host
        self._timers: Timers[K] = Timers()

    def start(self, key: K, now: float, *, check: bool, strict: bool) -> bool:
        """Begin; True if the address is to be answered for at once (`check` False)."""
        self._checks[key] = _Check(State.CHECKING if check else State.TRUSTING, strict)
        self._foreign.pop(key, None)
        self._timers.set(key, now if check else now + LATER[0])
        return not check

    def stop(self, key: K) -> None:
        self._checks.pop(key, None)
        self._foreign.pop(key, None)
        self._timers.cancel(key)

    def state(self, key: K) -> State | None:
        check = self._checks.get(key)
        return check.state if check else None

    def conflicts(self) -> dict[K, bytes]:
        """The keys in conflict, with the foreign host's MAC address."""
        return self._foreign.copy()

    def foreign(self, key: K, mac: bytes, now: float) -> Step[K] | None:
        """A host that is no member holds the address of `key`."""
        check = self._checks.get(key)
        if check is None:
            return None
        check.unanswered = 0
        before, known = check.state, self._foreign.get(key)
        self._foreign[key] = mac
        if not check.strict and before in (State.CHECKING, State.TRUSTING):
            check.state = State.DEFENDING
        else:
            check.state = TRANSITIONS[before, Input.FOREIGN]
        announce = False
        if check.state is State.DEFENDING and check.strict and now >= check.defended + DEFEND_INTERVAL:
            check.defended, announce = now, True
        if check.state is not before:
            check.probes = 0
            self._timers.set(key, now + CONFLICT_EVERY)
        elif mac == known or now < check.told + TELL_INTERVAL:
            return Step(key, before=before, after=check.state, announce=True) if announce else None
        check.told = now
        return Step(key, before=before, after=check.state, mac=mac, announce=announce)

    def members(self, macs: Container[bytes], now: float) -> list[Step[K]]:
        """These MAC addresses are members', as is known now: no conflict with one of them is any."""
        steps = []
        for key in [key for key, mac in self._foreign.items() if mac in macs]:
            check = self._checks[key]
            withheld = check.state is State.WITHHELD
            del self._foreign[key]
            check.unanswered = 0
            steps.append(self._move(key, check, Input.QUIET, now + (LATER[0] if withheld else SETTLED_EVERY)))
        return steps

    def deadline(self) -> float:
        return self._timers.deadline()

    def due(self, now: float, limit: int) -> list[Step[K]]:
        """At most `limit` keys' steps whose time has come."""
        out: list[Step[K]] = []
        while limit > 0 and (key := self._timers.pop(now)) is not None:
            limit -= 1
            out += self._tick(key, self._checks[key], now)
        return out

    def _tick(self, key: K, check: _Check, now: float) -> list[Step[K]]:
        check.probes += 1
        match check.state:
            case State.CHECKING if check.probes == 1:
                self._timers.set(key, now + self._grace)
                return [Step(key, probe=True)]
            case State.CHECKING:
                return [self._move(key, check, Input.GRACE_OVER, now + LATER[0])]
            case State.TRUSTING if check.probes <= len(LATER):
                wait = LATER[check.probes] - LATER[check.probes - 1] if check.probes < len(LATER) else ANSWER_WAIT
                self._timers.set(key, now + wait)
                return [Step(key, probe=True)]
            case State.TRUSTING:
                return [self._move(key, check, Input.QUIET, now + SETTLED_EVERY)]
            case State.SETTLED:
                self._timers.set(key, now + SETTLED_EVERY)
                return [Step(key, probe=True)]
        # DEFENDING, WITHHELD: the probe before this one counts as unanswered until somebody is heard.
        if check.unanswered >= CONFLICT_MISSES:
            check.unanswered = 0
            self._foreign.pop(key, None)
            next_due = now + (LATER[0] if check.state is State.WITHHELD else SETTLED_EVERY)
            return [self._move(key, check, Input.QUIET, next_due)]
        check.unanswered += 1
        self._timers.set(key, now + CONFLICT_EVERY)
        return [Step(key, probe=True)]

    def _move(self, key: K, check: _Check, what: Input, due: float) -> Step[K]:
        before = check.state
        check.state = TRANSITIONS[before, what]
        check.probes = 0
        self._timers.set(key, due)
        return Step(key, before=before, after=check.state)
