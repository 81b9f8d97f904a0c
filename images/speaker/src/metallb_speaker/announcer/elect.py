"""Who announces a group: pure, the same answer on every node that has the same view.

The rule is MetalLB's: among the candidates, the node with the lowest SHA-256 of ``node#ip`` wins.
Only the lost node's addresses move when a node is lost, and spread over the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

#: Version of the rule. Speakers of version N understand N-1, so that a rolling update agrees.
ELECTION_VERSION = 1


def rank(candidates: Iterable[str], ip: str) -> list[str]:
    """The candidates, best first: owner, runner-up, and so on. Ties go to the lower name."""
    return sorted(candidates, key=lambda node: (hashlib.sha256(f"{node}#{ip}".encode()).digest(), node))


def elect(candidates: Collection[str], alive: Collection[str], ip: str, preferred: str = "") -> str:
    """The node that announces the group elected on `ip`; "" when no candidate is alive."""
    living = [node for node in candidates if node in alive]
    if preferred in living:
        return preferred
    return rank(living, ip)[0] if living else ""
