"""Lifeguard's local health multiplier: how far this process may trust its own impression of others' silence.

Dadgar, Phillips, Currey 2018, "Lifeguard: local health awareness for more accurate failure detection", section IV-A.
The score rises when it looks as if the fault is ours, and falls with every probe that succeeds.
"""

from __future__ import annotations

#: The paper's S: the score saturates here, so that a recovered process is quick again within seconds.
MAX_SCORE = 8


class Health:
    """The score, 0 (healthy) to MAX_SCORE."""

    __slots__ = ("score",)

    def __init__(self) -> None:
        self.score = 0

    def worse(self, by: int = 1) -> None:
        """A missed Nack, a refuted suspicion of ourselves, a loop that woke late."""
        self.score = min(MAX_SCORE, self.score + by)

    def better(self) -> None:
        """A probe was answered in time."""
        self.score = max(0, self.score - 1)

    def stretch(self, seconds: float) -> float:
        """A timeout of the probing, longer while we are unwell (the paper's LHA-Probe)."""
        return seconds * (1 + self.score)

    def patience(self, seconds: float) -> float:
        """The same for the closer watch, gentler: half the stretch, and no more than three times."""
        return seconds * (1 + min(self.score, 4) / 2)
