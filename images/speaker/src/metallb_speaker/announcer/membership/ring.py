"""Who watches whom more closely: neighbours on a ring of hashed names.

An owner's runner-ups differ from address to address: with thousands of addresses a node has every other node
for a runner-up, and watching them all would cost more with every node. So the closer watch runs along a ring: each
member beats to, and watches, the two before and the two behind it. In a cluster of up to five nodes these are all
the others, so every owner and runner-up watch each other directly. In a larger one the four who notice tell everybody
within milliseconds (`swim`, news), the runner-ups among them. The relation is symmetric, so a beat serves both ends,
and the load is the same whatever the number of nodes. Hashing keeps the nodes of one rack, which fail together, apart.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=2048)
def place(name: str) -> tuple[bytes, str]:
    """Where on the ring a member stands."""
    return hashlib.sha256(name.encode()).digest()[:8], name


def neighbours(me: str, others: Iterable[str], count: int) -> frozenset[str]:
    """Up to `count` of `others`: half of them before `me` on the ring, half behind (the same seen from there)."""
    ring = sorted(place(name) for name in others if name != me)
    if len(ring) <= count:
        return frozenset(name for _, name in ring)
    behind = bisect_left(ring, place(me))
    reach = max(1, count // 2)
    return frozenset(ring[(behind + step) % len(ring)][1] for step in range(-reach, reach))
