"""Which prefixes this node says that it reaches: not those whose interfaces have had no carrier for a while. Pure.

Others pass a node over that does not have an address on-link. So one that has lost the services' network, but is
heard over another one, is replaced. Where that network was the only one nobody hears us, and membership decides: what
we say then could only do harm, when it is heard at last. So what is dark is withdrawn only after others were
heard all the while, and is told again once its carrier has been back for `SETTLE` seconds, so that a bad cable
does not move addresses to and fro.
"""

from __future__ import annotations

from collections.abc import Iterable

from metallb_speaker.announcer.layer2.api import NEVER

#: Whether others are heard is looked at so often, and so many times in a row before a prefix is withdrawn: longer than
#: datagrams that come in with a cable may be ahead of what netlink says of it.
EVERY, TIMES = 0.25, 4
#: As long as a member waits that comes back (`membership.timings.settle`).
SETTLE = 10.0


class Reach:
    """Of one node. Call `set` at each change of the interfaces, `turn` when `deadline` has come."""

    def __init__(self) -> None:
        self._prefixes: tuple[str, ...] = ()
        self._dark: frozenset[str] = frozenset()
        self._withdrawn: dict[str, float] = {}  # -> when it is told again; NEVER while it is dark
        self._look_at = NEVER
        self._heard = 0  # times in a row

    def set(self, prefixes: Iterable[str], dark: Iterable[str], now: float) -> None:
        """All prefixes with a connected route, and those of them that no interface with a carrier has."""
        self._prefixes, self._dark = tuple(prefixes), frozenset(dark)
        for prefix, until in list(self._withdrawn.items()):
            if prefix not in self._prefixes:
                del self._withdrawn[prefix]
            elif prefix in self._dark:
                self._withdrawn[prefix] = NEVER
            elif until == NEVER:
                self._withdrawn[prefix] = now + SETTLE
        if not self._dark - self._withdrawn.keys():
            self._look_at = NEVER
        elif self._look_at == NEVER:
            self._look_at, self._heard = now + EVERY, 0

    def deadline(self) -> float:
        """When `turn` has something to do."""
        return min(self._look_at, *self._withdrawn.values()) if self._withdrawn else self._look_at

    def turn(self, now: float, *, heard: bool) -> None:
        """`heard`: whether other members are heard now."""
        for prefix in [prefix for prefix, until in self._withdrawn.items() if until <= now]:
            del self._withdrawn[prefix]
        if now < self._look_at:
            return
        self._heard = self._heard + 1 if heard else 0
        self._look_at = now + EVERY
        if self._heard >= TIMES:
            self._withdrawn.update(dict.fromkeys(self._dark, NEVER))
            self._look_at = NEVER

    def told(self) -> tuple[str, ...]:
        """What the others are to be told."""
        return tuple(prefix for prefix in self._prefixes if prefix not in self._withdrawn)
