"""Replay protection without clocks: which counters of one life of a sender have been seen.

A window as in RFC 4303 section 3.4.3, over the sender's one counter for all receivers. A new life (boot id)
of a sender is admitted only by a challenge (`sessions`), so a recording of an older life never gets here.
"""

from __future__ import annotations

#: Counters below the highest one that may still come late. A sender of 100 datagrams a second that all
#: go elsewhere moves its counter on by as many: reordering within 5 seconds is far beyond any real one.
WINDOW = 512
_MASK = (1 << WINDOW) - 1


class Window:
    """The counters that were accepted from one life of one sender."""

    __slots__ = ("_seen", "highest")

    def __init__(self, counter: int) -> None:
        """Start at `counter`, which is thereby used; nothing below it will be accepted."""
        self.highest = counter
        self._seen = _MASK

    def accept(self, counter: int) -> bool:
        """Whether `counter` is new; it is not, from now on."""
        ahead = counter - self.highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            self.highest = counter
            return True
        if -ahead >= WINDOW:
            return False
        bit = 1 << -ahead
        if self._seen & bit:
            return False
        self._seen |= bit
        return True
