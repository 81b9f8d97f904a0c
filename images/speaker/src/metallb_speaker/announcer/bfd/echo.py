"""The Echo function of one session (RFC 5880 sections 6.4, 6.8.8, 6.8.9; RFC 5881 section 4), sans-IO.

Our echo packets are addressed to ourselves and handed to the peer, whose forwarding plane sends them
back. What is in them is ours alone to read: discriminator, sequence, and a number nobody can guess.
"""

from __future__ import annotations

import random
import struct

_PAYLOAD = struct.Struct("!IIQ")
LENGTH = _PAYLOAD.size
_NEVER = float("inf")


class Echo:
    """Sends while `run` has an interval, and says by `fails_at` when too many were lost."""

    def __init__(self, discriminator: int, rng: random.Random) -> None:
        self.path = False  # the edge knows the peer's link address and may send
        self.looped_here = False  # this node forwards, so the peer's echo packets come back to it
        self.packets_in = self.packets_out = 0
        self.fails_at = _NEVER
        self._discriminator, self._rng = discriminator, rng
        self._secret = rng.getrandbits(64)
        self._interval: float | None = None
        self._multiplier = 1
        self._sequence = 0
        self._returned = 0  # the newest sequence that came back
        self._next = _NEVER
        self._out: list[bytes] = []

    @property
    def active(self) -> bool:
        return self._interval is not None

    def run(self, interval: float | None, multiplier: int, now: float) -> None:
        """Send every `interval` seconds; None: do not. Unchanged wishes change nothing."""
        if not self.path:
            interval = None
        if (interval, multiplier) == (self._interval, self._multiplier):
            return
        self._interval, self._multiplier = interval, multiplier
        if interval is None:
            self._next = self.fails_at = _NEVER
            self._out.clear()
        else:
            self._next = min(self._next, now)
            self.fails_at = now + multiplier * interval

    def deadline(self) -> float:
        return min(self._next, self.fails_at)

    def on_deadline(self, now: float) -> None:
        if self._interval is None or now < self._next:
            return
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._out.append(_PAYLOAD.pack(self._discriminator, self._sequence, self._secret))
        # Up to 25 % of jitter (RFC 5880 section 6.8.9).
        self._next = now + self._interval * self._rng.uniform(0.75, 1.0)

    def pending(self) -> list[bytes]:
        """Payloads of the echo packets to send now."""
        out, self._out = self._out, []
        self.packets_out += len(out)
        return out

    def returned(self, payload: bytes, now: float) -> bool:
        """One came back; False: it is not ours, or was seen already."""
        discriminator, sequence, secret = _PAYLOAD.unpack_from(payload)
        # In serial number order (RFC 1982), so that one packet that is repeated for ever proves nothing.
        fresh = 0 < (sequence - self._returned) & 0xFFFFFFFF < 1 << 31
        if discriminator != self._discriminator or secret != self._secret or not fresh:
            return False
        self._returned = sequence
        self.packets_in += 1
        if self._interval is not None:
            self.fails_at = now + self._multiplier * self._interval
        return True


def discriminator_of(payload: bytes) -> int:
    """Which session a payload claims to be of; 0 if it is too short."""
    return _PAYLOAD.unpack_from(payload)[0] if len(payload) >= LENGTH else 0
