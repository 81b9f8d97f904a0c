"""How long a suspicion lasts until the suspect is given up: Lifeguard's dogpile timeout.

Lifeguard (2018), section IV-B: it starts long, and shrinks towards the least with every independent accuser.
"""

from __future__ import annotations

import math

from metallb_speaker.announcer.membership.timings import Timings


class Suspicion:
    """One suspect, from the first accusation on."""

    __slots__ = ("_accusers", "_at", "_least", "_most", "_needed", "incarnation")

    def __init__(self, incarnation: int, accuser: str, members: int, timings: Timings, now: float) -> None:
        """`members`: how many are alive. With too few of them to confirm anything, the least time holds at once."""
        self.incarnation = incarnation
        self._at = now
        self._least = timings.suspicion_factor * max(1.0, math.log10(max(members, 1))) * timings.period
        self._most = self._least * timings.suspicion_spread
        self._needed = min(timings.confirmations, max(0, members - 2))
        self._accusers = {accuser}

    def accuse(self, accuser: str) -> bool:
        """Another accusation of the same incarnation. True if it is news, worth passing on."""
        if accuser in self._accusers or len(self._accusers) > self._needed:
            return False
        self._accusers.add(accuser)
        return True

    def deadline(self) -> float:
        """When the suspect is given up."""
        if self._needed == 0:
            return self._at + self._least
        confirmed = len(self._accusers) - 1
        share = math.log(confirmed + 1) / math.log(self._needed + 1)
        return self._at + max(self._least, self._most - share * (self._most - self._least))
