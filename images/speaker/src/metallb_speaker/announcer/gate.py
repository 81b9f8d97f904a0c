"""Claims wait until what they claim is answered for: taking over thousands of groups takes more than one turn.

Ownership says at once to the old owner that a group is ours, and on that the old owner falls silent. So what
ownership sends goes through here, and a claim leaves when layer 2 has the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metallb_speaker.announcer.membership.api import Members
from metallb_speaker.announcer.membership.messages import Claim, Handover, Released


class Gate:
    """Membership as ownership sees it: all its verbs, but for `send`."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._held: dict[str, dict[str, int]] = {}  # to -> key -> generation

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._members, verb)

    def send(self, to: str, message: Claim | Released | Handover, now: float) -> None:
        """Hold a claim back, pass on everything else."""
        if isinstance(message, Claim):
            self._held.setdefault(to, {}).update(dict.fromkeys(message.keys, message.generation))
        else:
            self._members.send(to, message, now)

    def release(self, answered: Callable[[str], bool | None], now: float) -> None:
        """Send the claims of the groups that `answered` says are answered for; None: it is not ours any more."""
        if not self._held:
            return
        held, self._held = self._held, {}
        for to, keys in held.items():
            ready: dict[int, list[str]] = {}
            for key, generation in keys.items():
                verdict = answered(key)
                if verdict:
                    ready.setdefault(generation, []).append(key)
                elif verdict is not None:
                    self._held.setdefault(to, {})[key] = generation
            for generation, batch in ready.items():
                self._members.send(to, Claim(generation, tuple(batch)), now)
