"""Is a node that is silent on the membership port really dead? Ask the wire for an address that it owns.

A powered-off node, a cut cable and a stopped process answer nothing; a node whose UDP alone is blocked goes on
answering ARP and NDP. Asking begins with the suspicion, well before the node is given up, so it costs no time.
Only nodes whose addresses would come to this node are asked about, by at most ADDRESSES of them: a bound
on frames, however many addresses a node owns.

States of a node here::

    (none)   --suspected-->                      ASKED
    ASKED    --given up, an answer came-->       KEPT       counts as alive, and is asked on
    ASKED    --given up, no answer-->            (dead)
    KEPT     --no answer for KEEP_FOR-->         (dead)
    LISTED   --answered once, then not for LISTED_FOR-->  (dead)     alive by the cluster's word alone
    any      --heard on the membership port-->   (none)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

#: Addresses of one node that are asked for.
ADDRESSES = 3
#: How long one question waits for its answer: a responder under a CPU limit may be 90 ms late, but that is
#: what repetition during the suspicion is for; a dead node must not gain from it.
WAIT = 0.04
ASK_EVERY = 0.08
#: An answer this old still proves life when the node is given up.
ANSWER_HOLDS = 0.3
KEEP_EVERY, KEEP_FOR = 0.25, 0.75
LISTED_EVERY, LISTED_FOR = 1.0, 2.6
NEVER = float("inf")


class Phase(Enum):
    """Of one node."""

    ASKED = "asked"
    KEPT = "kept"
    LISTED = "listed"


@dataclass(slots=True)
class _Check:
    phase: Phase
    next_at: float
    first: float = NEVER  # when the first question was sent
    answered: float = -NEVER
    decide_at: float = NEVER
    address: str = ""  # that was answered for, and by which
    mac: str = ""
    asked: tuple[str, ...] = ()


class Verdict(Enum):
    """What became of a node."""

    DEAD = "dead"
    KEPT = "kept"
    ENDED = "ended"  # it was kept, and is dead now


class WireCheck:
    """All nodes that are asked about. `pick` gives the addresses to ask for, of a node."""

    def __init__(self, pick: Callable[[str], tuple[str, ...]]) -> None:
        self._pick = pick
        self._checks: dict[str, _Check] = {}
        self.dead: set[str] = set()  # LISTED once, and silent on the wire

    def suspected(self, node: str, now: float) -> None:
        """Begin to ask."""
        if node not in self._checks and self._pick(node):
            self._checks[node] = _Check(Phase.ASKED, now)

    def cleared(self, node: str) -> bool:
        """Heard again, or gone for good. True if it was kept."""
        self.dead.discard(node)
        check = self._checks.pop(node, None)
        return check is not None and check.phase is Phase.KEPT

    def failed(self, node: str, now: float) -> None:
        """Given up: `due` will have the verdict, maybe at once."""
        check = self._checks.get(node)
        if check is None or check.phase is Phase.LISTED:
            check = self._checks[node] = _Check(Phase.ASKED, now)
        start = now if check.first == NEVER else check.first
        check.decide_at = max(now, start + WAIT + 0.01) if self._pick(node) else now

    def listed(self, node: str, now: float) -> None:
        """Alive by the cluster's word alone."""
        if node not in self._checks:
            self._checks[node] = _Check(Phase.LISTED, now)

    def seen(self, node: str, address: str, mac: str, now: float) -> bool:
        """`node` showed itself on the wire. True if that brings it back from the dead (it is kept)."""
        check = self._checks.get(node)
        if check is None:
            self.dead.discard(node)
            self._checks[node] = _Check(Phase.KEPT, now + KEEP_EVERY, now, now, NEVER, address, mac)
            return True
        check.answered, check.address, check.mac = now, address, mac
        return False

    def asking(self, address: str) -> list[str]:
        """The nodes that are asked about by that address."""
        return [node for node, check in self._checks.items() if address in check.asked]

    def holds(self, node: str) -> bool:
        """Whether a node that membership gave up counts as alive still: kept, or not decided."""
        check = self._checks.get(node)
        return check is not None and check.phase in (Phase.ASKED, Phase.KEPT)

    def evidence(self, node: str) -> tuple[str, str]:
        """(address, MAC) that `node` is kept for."""
        check = self._checks[node]
        return check.address, check.mac

    def kept(self) -> list[str]:
        """The nodes that are kept."""
        return [node for node, check in self._checks.items() if check.phase is Phase.KEPT]

    def due(self, now: float) -> tuple[list[str], list[tuple[str, Verdict]]]:
        """Addresses to ask for now, and verdicts."""
        ask: list[str] = []
        verdicts: list[tuple[str, Verdict]] = []
        for node, check in list(self._checks.items()):
            verdict = self._judge(check, now)
            if verdict is Verdict.KEPT:
                check.phase, check.decide_at = Phase.KEPT, NEVER
                verdicts.append((node, verdict))
            elif verdict is not None:
                if check.phase is Phase.LISTED:
                    self.dead.add(node)
                del self._checks[node]
                verdicts.append((node, verdict))
                continue
            if now >= check.next_at:
                every = {Phase.ASKED: ASK_EVERY, Phase.KEPT: KEEP_EVERY, Phase.LISTED: LISTED_EVERY}[check.phase]
                check.next_at = now + every
                check.asked = self._pick(node) or check.asked
                if check.asked:
                    check.first = min(check.first, now)
                    ask += check.asked
        return ask, verdicts

    @staticmethod
    def _judge(check: _Check, now: float) -> Verdict | None:
        silent = now - check.answered
        if check.phase is Phase.ASKED and now >= check.decide_at:
            return Verdict.KEPT if silent <= ANSWER_HOLDS else Verdict.DEAD
        if check.phase is Phase.KEPT and silent > KEEP_FOR:
            return Verdict.ENDED
        if check.phase is Phase.LISTED and LISTED_FOR < silent < NEVER:
            return Verdict.DEAD
        return None

    def deadline(self) -> float:
        """When `due` must be called next."""
        return min((min(c.next_at, c.decide_at) for c in self._checks.values()), default=NEVER)
