"""The BGP finite state machine (RFC 4271 section 8) as one table, enforced.

A pair that is not in the table is illegal: `step` raises and nothing changes. Names of events are
those of RFC 4271 section 8.1; events of features that are not offered (for example 2, delayed open) are left out.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType


class State(Enum):
    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


class Event(Enum):
    START = "ManualStart"  # 1
    STOP = "ManualStop"  # 2
    CONNECT_RETRY_EXPIRES = "ConnectRetryTimer_Expires"  # 9
    HOLD_EXPIRES = "HoldTimer_Expires"  # 10
    SEND_HOLD_EXPIRES = "SendHoldTimer_Expires"  # 29, RFC 9687
    KEEPALIVE_EXPIRES = "KeepaliveTimer_Expires"  # 11
    TCP_CONNECTED = "TcpConnectionConfirmed"  # 16, 17
    TCP_FAILED = "TcpConnectionFails"  # 18
    OPEN_RECEIVED = "BGPOpen"  # 19
    HEADER_ERROR = "BGPHeaderErr"  # 21
    OPEN_ERROR = "BGPOpenMsgErr"  # 22
    COLLISION = "OpenCollisionDump"  # 23
    NOTIFICATION = "NotifMsg"  # 24, 25
    KEEPALIVE_RECEIVED = "KeepAliveMsg"  # 26
    UPDATE_RECEIVED = "UpdateMsg"  # 27
    UPDATE_ERROR = "UpdateMsgErr"  # 28
    REFRESH_RECEIVED = "RouteRefreshMsg"  # RFC 2918
    BFD_DOWN = "BfdDown"  # RFC 5882 section 4.2


class IllegalEvent(Exception):
    """An event that cannot happen in this state: a mistake in our own code, or the peer's (then
    answered with NOTIFICATION FSM error, RFC 6608)."""


_S, _E = State, Event

_ANYWHERE = {_E.STOP: _S.IDLE, _E.BFD_DOWN: _S.IDLE}
_ENDS = {
    **_ANYWHERE,
    _E.HOLD_EXPIRES: _S.IDLE,
    _E.SEND_HOLD_EXPIRES: _S.IDLE,
    _E.HEADER_ERROR: _S.IDLE,
    _E.OPEN_ERROR: _S.IDLE,
    _E.COLLISION: _S.IDLE,
    _E.NOTIFICATION: _S.IDLE,
}

TABLE: MappingProxyType[tuple[State, Event], State] = MappingProxyType(
    {
        (state, event): target
        for state, row in {
            _S.IDLE: {
                _E.START: _S.CONNECT,
                _E.STOP: _S.IDLE,
                _E.BFD_DOWN: _S.IDLE,
                _E.CONNECT_RETRY_EXPIRES: _S.CONNECT,  # after the back-off (IdleHoldTimer, event 13)
                _E.TCP_CONNECTED: _S.OPEN_SENT,  # accepted: listening is on, and the peer may call at any time
            },
            _S.CONNECT: {
                **_ANYWHERE,
                _E.CONNECT_RETRY_EXPIRES: _S.CONNECT,
                _E.TCP_CONNECTED: _S.OPEN_SENT,
                _E.TCP_FAILED: _S.ACTIVE,
            },
            _S.ACTIVE: {
                **_ANYWHERE,
                _E.CONNECT_RETRY_EXPIRES: _S.CONNECT,
                _E.TCP_CONNECTED: _S.OPEN_SENT,
                _E.TCP_FAILED: _S.ACTIVE,
            },
            _S.OPEN_SENT: {
                **_ENDS,
                _E.TCP_FAILED: _S.ACTIVE,
                _E.OPEN_RECEIVED: _S.OPEN_CONFIRM,
            },
            _S.OPEN_CONFIRM: {
                **_ENDS,
                _E.TCP_FAILED: _S.IDLE,
                _E.KEEPALIVE_EXPIRES: _S.OPEN_CONFIRM,
                _E.KEEPALIVE_RECEIVED: _S.ESTABLISHED,
            },
            _S.ESTABLISHED: {
                **_ENDS,
                _E.TCP_FAILED: _S.IDLE,
                _E.KEEPALIVE_EXPIRES: _S.ESTABLISHED,
                _E.KEEPALIVE_RECEIVED: _S.ESTABLISHED,
                _E.UPDATE_RECEIVED: _S.ESTABLISHED,
                _E.UPDATE_ERROR: _S.IDLE,
                _E.REFRESH_RECEIVED: _S.ESTABLISHED,
            },
        }.items()
        for event, target in row.items()
    }
)


def step(state: State, event: Event) -> State:
    """The next state. Raises IllegalEvent for a pair that is not in the table."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalEvent(f"{event.value} in {state.value}") from None
