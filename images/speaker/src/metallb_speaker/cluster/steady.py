"""What has just changed and may change back: nodes that were not Ready, and nodes whose speaker's pod is gone.

A node that comes back to being Ready is behind the others for SETTLE seconds, so that a kubelet in trouble does not
move addresses to and fro: the same time that a speaker waits which comes back (`membership.timings.settle`). Nodes that
come back one after the other wait for the last of them: else, where no other node is well, the first one would get
everything, and give most of it back seconds later. A node
whose pod is gone counts for an even spread for LINGER seconds more: in a rollout each pod is replaced within that, and
nothing but its own addresses should move. It is no candidate meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from metallb_common.kube.views import Node

SETTLE = 10.0
LINGER = 120.0
#: For so long after it has come back, a node waits for others that come back: not for ever for one that comes and goes.
TOGETHER = 20.0


def well(node: Node) -> bool:
    """Whether traffic may be sent to it, by its conditions."""
    return node.ready and not node.network_unavailable


class Steadiness:
    """Node name -> until when, of those that return since when, too. Times are monotonic seconds of `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.returning: dict[str, tuple[float, float]] = {}
        self.lingering: dict[str, float] = {}

    def nodes(self, before: Mapping[str, Node], after: Mapping[str, Node]) -> None:
        """Nodes have changed; those that are seen for the first time are taken as they are."""
        now, back = self._clock(), False
        for name, node in after.items():
            if name not in before or not well(node):
                self.returning.pop(name, None)
            elif not well(before[name]):
                self.returning[name] = now, now + SETTLE
                back = True
        for name in self.returning.keys() - after.keys():
            del self.returning[name]
        if back:
            for name, (since, until) in self.returning.items():
                self.returning[name] = since, now + SETTLE if now - since <= TOGETHER else until

    def speakers(self, before: Iterable[str], after: Iterable[str]) -> None:
        """The nodes that run a speaker have changed."""
        now = set(after)
        self.lingering.update(dict.fromkeys(set(before) - now, self._clock() + LINGER))
        for name in self.lingering.keys() & now:
            del self.lingering[name]

    def expire(self) -> bool:
        """Whether the time of any is over: then what may announce is to be decided anew."""
        now = self._clock()
        returned = [name for name, (_, until) in self.returning.items() if until <= now]
        gone = [name for name, until in self.lingering.items() if until <= now]
        for name in returned:
            del self.returning[name]
        for name in gone:
            del self.lingering[name]
        return bool(returned or gone)
