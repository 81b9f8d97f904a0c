"""The BFD control packet (RFC 5880 section 4.1), without authentication.

 0                   1                   2                   3
|Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
|                       My Discriminator                        |
|                      Your Discriminator                       |
|          Desired Min TX, Required Min RX, Required Min Echo RX (microseconds each)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

LENGTH = 24
CONTROL_PORT = 3784  # RFC 5881 section 4
ECHO_PORT = 3785
MULTIHOP_PORT = 4784  # RFC 5883 section 5

_PACKET = struct.Struct("!BBBBIIIII")


class State(IntEnum):
    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why the last session went down (RFC 5880 section 4.1)."""

    NONE = 0
    DETECTION_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_DOWN = 3
    FORWARDING_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_DOWN = 6
    ADMIN_DOWN = 7
    REVERSE_DOWN = 8


class DecodeError(ValueError):
    """Why a packet is dropped; the text is the drop reason of the metric and the log."""


@dataclass(frozen=True, slots=True)
class Packet:
    """Intervals are in microseconds, as on the wire."""

    state: State
    diagnostic: int
    detect_multiplier: int
    my_discriminator: int
    your_discriminator: int
    desired_min_tx: int
    required_min_rx: int
    required_min_echo_rx: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False

    def encode(self) -> bytes:
        flags = (
            self.state << 6 | self.poll << 5 | self.final << 4 | self.control_plane_independent << 3 | self.demand << 1
        )
        return _PACKET.pack(
            1 << 5 | self.diagnostic,
            flags,
            self.detect_multiplier,
            LENGTH,
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        )

    @classmethod
    def decode(cls, data: bytes) -> Packet:
        """The checks of RFC 5880 section 6.8.6 that need no session. Raises DecodeError."""
        if len(data) < LENGTH:
            raise DecodeError("truncated")
        head, flags, multiplier, length, mine, yours, tx, rx, echo = _PACKET.unpack_from(data)
        if head >> 5 != 1:
            raise DecodeError("version is not 1")
        if length < LENGTH or length > len(data):
            raise DecodeError("length field does not fit the packet")
        if flags & 0x04:
            raise DecodeError("authenticated, but no authentication is configured")
        if multiplier == 0:
            raise DecodeError("detect multiplier is zero")
        if flags & 0x01:
            raise DecodeError("multipoint bit is set")
        if mine == 0:
            raise DecodeError("my discriminator is zero")
        state = State(flags >> 6)
        if yours == 0 and state not in (State.DOWN, State.ADMIN_DOWN):
            raise DecodeError("your discriminator is zero in a session that is up")
        return cls(
            state,
            head & 0x1F,
            multiplier,
            mine,
            yours,
            tx,
            rx,
            echo,
            poll=bool(flags & 0x20),
            final=bool(flags & 0x10),
            control_plane_independent=bool(flags & 0x08),
            demand=bool(flags & 0x02),
        )
