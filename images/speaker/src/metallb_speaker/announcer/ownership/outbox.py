"""Claims, answers and hand-overs on their way: in batches per member, claims and hand-overs repeated until answered."""

from __future__ import annotations

from collections.abc import Container

from metallb_speaker.announcer.membership.messages import Claim, Handover, Released
from metallb_speaker.announcer.ownership.events import Outgoing
from metallb_speaker.announcer.ownership.states import CLAIM_TRIES, REPEAT_EVERY, REPEAT_MOST

#: Keys per message: as IPv6 addresses they fill a datagram of 1,232 octets with room for two records.
BATCH = 48
NEVER = float("inf")


def _batches(keys: list[str]) -> list[tuple[str, ...]]:
    return [tuple(keys[i : i + BATCH]) for i in range(0, len(keys), BATCH)]


def _due(keys: dict[str, int], repeat: bool) -> list[str]:
    """The keys to send now; counts them as sent."""
    due = [key for key, tries in keys.items() if repeat or not tries]
    for key in due:
        keys[key] += 1
    return due


class Outbox:
    """What is to be said to whom. `flush` gives the messages that are due."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, int]] = {}  # node -> key -> times sent
        self._handovers: dict[str, dict[str, int]] = {}
        self._answers: dict[str, dict[str, None]] = {}
        self._at = NEVER  # when claims and hand-overs are repeated
        self._interval = REPEAT_EVERY
        self._new = False

    def claim(self, node: str, key: str, now: float) -> None:
        """Say to `node` that `key` is ours."""
        self._claims.setdefault(node, {})[key] = 0
        self._hurry(now)

    def handover(self, node: str, key: str, now: float) -> None:
        """Ask `node` to take `key`; whomever else we asked is not asked any more."""
        self.withdraw(key)
        self._handovers.setdefault(node, {})[key] = 0
        self._hurry(now)

    def released(self, node: str, key: str) -> None:
        """Answer `node` that `key` is not ours."""
        self._answers.setdefault(node, {})[key] = None

    def answered(self, node: str, key: str) -> None:
        """`node` knows that `key` is ours."""
        keys = self._claims.get(node)
        if keys is not None:
            keys.pop(key, None)
            if not keys:
                del self._claims[node]

    def unclaim(self, key: str) -> None:
        """`key` is not ours any more: repeat no claim of it."""
        for node in [node for node, keys in self._claims.items() if key in keys]:
            self.answered(node, key)

    def withdraw(self, key: str) -> None:
        """Ask nobody to take `key` any more."""
        for node, keys in list(self._handovers.items()):
            keys.pop(key, None)
            if not keys:
                del self._handovers[node]

    def forget(self, node: str) -> None:
        """`node` is gone: it needs to hear nothing."""
        self._claims.pop(node, None)
        self._handovers.pop(node, None)
        self._answers.pop(node, None)

    def flush(self, generation: int, now: float, groups: Container[str] | None = None) -> list[Outgoing]:
        """The messages to send now. `groups`: the keys of ours; other names are addresses, see `claims`."""
        out = [
            Outgoing(node, Released(batch)) for node, keys in self._answers.items() for batch in _batches(list(keys))
        ]
        self._answers = {}
        repeat = now >= self._at
        if not (repeat or self._new):
            return out
        # What is new leaves at once; what was sent is repeated when its time has come, and not for each new key.
        for node, claims in list(self._claims.items()):
            for key in [key for key, tries in claims.items() if tries >= CLAIM_TRIES]:
                del claims[key]
            if not claims:
                del self._claims[node]
            due = _due(claims, repeat)
            keys = [name for name in due if groups is None or name in groups]
            others = [name for name in due if groups is not None and name not in groups]
            out += [Outgoing(node, Claim(generation, batch)) for batch in _batches(keys)]
            out += [Outgoing(node, Claim(generation + 1, batch)) for batch in _batches(others)]
        for node, asked in self._handovers.items():
            out += [Outgoing(node, Handover(batch)) for batch in _batches(_due(asked, repeat))]
        self._new = False
        if not self._claims and not self._handovers:
            self._at = NEVER
        elif repeat or self._at == NEVER:
            self._at = now + self._interval
            self._interval = min(REPEAT_MOST, self._interval * 2)
        return out

    def _hurry(self, now: float) -> None:
        self._new = True
        self._interval = REPEAT_EVERY
        if self._at > now + REPEAT_EVERY:
            self._at = now + REPEAT_EVERY

    def deadline(self) -> float:
        """When `flush` has something."""
        return -NEVER if self._answers or self._new else self._at
