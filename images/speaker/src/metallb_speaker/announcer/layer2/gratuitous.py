"""Announcements that nobody asked for: at once on take-over, then spaced repeats, then rarely for ever.

Hosts that cached the old owner's MAC address move at the first frame; repeats are for frames that were
lost; the rare ones keep the forwarding tables of switches (which forget after 300 s by default) and
those hosts right that miss broadcasts. Each is ARP in request and reply form, or one unsolicited
advertisement with override. RFC 4861 section 7.2.6 allows three of the latter in a row; ours are
spaced beyond its RetransTimer of one second but for the first repeat, and then rare.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from metallb_speaker.announcer.layer2.timers import Timers

#: Seconds after take-over. The first repeat comes soon: one lost frame is an outage until the next one.
SPACED: Final = (0.0, 0.25, 1.25, 3.0, 7.0, 15.0, 31.0)
#: Then this often: twice within the shortest forwarding table age that switches have by default, 300 s.
RARELY: Final = 120.0

K = TypeVar("K", bound=Hashable)


class Gratuitous(Generic[K]):
    """When to announce each key again. Sends nothing itself: `due` says for which keys it is time."""

    def __init__(self) -> None:
        self._timers: Timers[K] = Timers()
        self._started: dict[K, tuple[float, int]] = {}  # start, announcements made

    def start(self, key: K, now: float) -> None:
        """Take-over: announce now, and repeat. Started already: from the beginning."""
        self._started[key] = (now, 0)
        self._timers.set(key, now)

    def stop(self, key: K) -> None:
        """Withdrawn: nothing any more."""
        self._started.pop(key, None)
        self._timers.cancel(key)

    def __contains__(self, key: K) -> bool:
        return key in self._started

    def deadline(self) -> float:
        return self._timers.deadline()

    def due(self, now: float, limit: int) -> list[K]:
        """At most `limit` keys to announce now; their next deadline is set."""
        out: list[K] = []
        while len(out) < limit and (key := self._timers.pop(now)) is not None:
            start, made = self._started[key]
            made += 1
            self._started[key] = (start, made)
            # A loop that was late must not catch up in one burst: the next one is at least half its distance away.
            if made < len(SPACED):
                step = SPACED[made] - SPACED[made - 1]
                self._timers.set(key, max(start + SPACED[made], now + step / 2))
            else:
                self._timers.set(key, now + RARELY * (0.75 + 0.25 * _spread(key)))
            out.append(key)
        return out


def _spread(key: Hashable) -> float:
    """0 to 1, the same for a key in every run: what was taken over at once is not repeated at once for ever."""
    return zlib.crc32(repr(key).encode()) / 0xFFFFFFFF
