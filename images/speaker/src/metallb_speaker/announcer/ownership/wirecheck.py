"""Is a node that is silent on the membership port really dead? Ask the wire for an address that it owns.

A powered-off node, a cut cable and a stopped process answer nothing; a node whose UDP alone is blocked goes on
answering ARP and NDP. Asking begins with the suspicion, well before the node is given up, so it costs no time.
Nodes whose addresses would come to this node are asked about, by at most ADDRESSES of them; of the others OTHERS, by
one address each, since they may be another's heirs: a bound on frames, however many addresses and nodes there are.

States of a node here::

    (none)   --suspected-->                      ASKED
    ASKED    --given up, an answer came-->       KEPT       counts as alive, and is asked on
    ASKED    --given up, no answer-->            (dead)
    KEPT     --no answer for KEEP_FOR-->         (dead)
    LISTED   --answered once, then not for LISTED_FOR-->  (dead)     alive by the cluster's word alone
    any      --heard on the membership port-->   (none)

A node that is KEPT or LISTED and has nothing any more stays what it is: it cannot answer, so its silence says nothing.
If it died meanwhile, that is found out when it gets something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

#: Addresses of one node that are asked for.
ADDRESSES = 3
#: Nodes asked about from which on one that has nothing for us is not asked about as well.
OTHERS = 6
#: How long one question waits for its answer: a responder under a CPU limit may be 90 ms late, but that is
#: what repetition during the suspicion is for; a dead node must not gain from it.
WAIT = 0.04
ASK_EVERY = 0.08
#: An answer this old still proves life when the node is given up.
ANSWER_HOLDS = 0.3
KEEP_EVERY, KEEP_FOR = 0.25, 0.75
LISTED_EVERY, LISTED_FOR = 1.0, 2.6
#: From when it owns something until its first answer, but not for ever: who dies before it has shown itself is not
#: missed on the wire.
FIRST_EVERY, FIRST_FOR = 0.2, 3.0
#: Waking later than this counts as not running: less is what every busy node does, and the times above allow for it.
LATE = 0.25
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
    hurry_until: float = -NEVER


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

    def __len__(self) -> int:
        """How many nodes are asked about."""
        return len(self._checks)

    def suspected(self, node: str, now: float) -> None:
        """Begin to ask."""
        if node not in self._checks and (picked := self._pick(node)):
            self._checks[node] = _Check(Phase.ASKED, now, asked=picked)

    def cleared(self, node: str) -> bool:
        """Heard again, or gone for good. True if it was kept."""
        self.dead.discard(node)
        check = self._checks.pop(node, None)
        return check is not None and check.phase is Phase.KEPT

    def failed(self, node: str, now: float) -> None:
        """Given up: `due` will have the verdict, maybe at once."""
        check, picked = self._checks.get(node), self._pick(node)
        if check is None or check.phase is Phase.LISTED:
            check = self._checks[node] = _Check(Phase.ASKED, now, asked=picked)
        start = now if check.first == NEVER else check.first
        check.decide_at = max(now, start + WAIT + 0.01) if picked else now

    def listed(self, node: str, now: float) -> None:
        """Alive by the cluster's word alone."""
        if node not in self._checks:
            self._checks[node] = _Check(Phase.LISTED, now)

    def owns(self, node: str, now: float) -> None:
        """`node` is believed to own something more: where it has never shown itself, that is the time to look."""
        check = self._checks.get(node)
        if check is not None and check.phase is Phase.LISTED and check.answered == -NEVER:
            check.next_at, check.hurry_until = min(check.next_at, now + WAIT), now + FIRST_FOR

    def seen(self, node: str, address: str, mac: str, now: float) -> bool:
        """`node` showed itself on the wire. True if that brings it back from the dead (it is kept)."""
        check = self._checks.get(node)
        if check is None and node in self.dead:
            self.dead.discard(node)
            self._checks[node] = _Check(Phase.LISTED, now + LISTED_EVERY, now, now, NEVER, address, mac)
            return True
        if check is None:
            self._checks[node] = _Check(Phase.KEPT, now + KEEP_EVERY, now, now, NEVER, address, mac)
            return True
        self.shown(node, address, mac, now)
        return False

    def shown(self, node: str, address: str, mac: str, now: float) -> None:
        """What can only be a frame of `node`: as good as an answer, if it is asked about."""
        check = self._checks.get(node)
        if check is not None:
            check.answered, check.address, check.mac = now, address, mac

    def goes_on(self, node: str) -> bool:
        """Whether membership does not hear `node` and it is asked about already: that is not given up half-way."""
        check = self._checks.get(node)
        return check is not None and (check.phase is Phase.KEPT or (check.phase is Phase.ASKED and bool(check.asked)))

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
        self._excuse_late(now - self.deadline())
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
                if check.answered == -NEVER and now < check.hurry_until:
                    every = min(every, FIRST_EVERY)
                check.next_at = now + every
                check.asked = self._pick(node)
                if check.asked:
                    check.first = min(check.first, now)
                    ask += check.asked
                else:
                    self._excuse(check, now)
        return ask, verdicts

    def _excuse_late(self, late: float) -> None:
        """We were not running for a while, and asked nothing: that silence says nothing of the others."""
        if late <= LATE:
            return
        for check in self._checks.values():
            check.answered += late
            check.decide_at += late

    @staticmethod
    def _excuse(check: _Check, now: float) -> None:
        """The node has nothing that it could answer for: its silence says nothing until it has something again."""
        if check.phase is Phase.KEPT:
            check.answered = now
        elif check.phase is Phase.LISTED:
            check.answered = -NEVER

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
