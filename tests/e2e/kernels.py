"""What the nodes' kernels know of a connection that was not made, for a series that is to explain each of them.

Suspects: an entry of connection tracking that an earlier connection from the same port has left, one that could not be
made, a frame that a full backlog lost, a neighbour entry that was collected (that table is the whole machine's).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.cluster.observe import Inside

#: Counters of connection tracking that tell of packets that were lost or are odd; `conntrack -S` has more.
TRACKING = frozenset(
    ("invalid", "insert_failed", "drop", "early_drop", "error", "clash_resolve", "chaintoolong", "search_restart")
)
NEIGHBOURS = frozenset(("table_fulls", "forced_gc_runs", "res_failed", "unresolved_discards"))


def tracking(text: str) -> Counter[str]:
    """`conntrack -S`, all processors together."""
    found: Counter[str] = Counter()
    for name, value in re.findall(r"(\w+)=(\d+)", text):
        if name in TRACKING:
            found[name] += int(value)
    return found


def backlog(text: str) -> int:
    """Frames that a full backlog lost: the second column of /proc/net/softnet_stat, all processors together."""
    return sum(int(line.split()[1], 16) for line in text.splitlines())


def neighbours(text: str) -> Counter[str]:
    """/proc/net/stat/ndisc_cache or arp_cache, all processors together."""
    head, *lines = (line.split() for line in text.splitlines())
    found: Counter[str] = Counter()
    for line in lines:
        found.update({name: int(value, 16) for name, value in zip(head, line, strict=False) if name in NEIGHBOURS})
    return found


class Kernels:
    """Of one cluster: counts from when this was made."""

    def __init__(self, lab: Inside, nodes: list[str]) -> None:
        self._lab, self._nodes = lab, nodes
        self._before = self._counts()

    def of(self, address: str, port: int) -> list[str]:
        """Entries of connections from `port` to `address`, at every node, and what was counted meanwhile."""
        family = "ipv6" if ":" in address else "ipv4"
        told = []
        for node in self._nodes:
            asked = ("conntrack", "-L", "-p", "tcp", "-f", family, "--orig-port-src", str(port))
            entries = self._lab.run_in(node, *asked, check=False).stdout
            told += [f"{node} tracks {' '.join(entry.split())}" for entry in entries.splitlines() if address in entry]
        grown = self._counts() - self._before
        return told + [f"{name} +{count}" for name, count in sorted(grown.items())]

    def _counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for node in self._nodes:
            seen = tracking(self._lab.run_in(node, "conntrack", "-S", check=False).stdout)
            found.update({f"{node} conntrack {name}": count for name, count in seen.items()})
        found["softnet backlog"] = backlog(Path("/proc/net/softnet_stat").read_text())
        for table in ("ndisc_cache", "arp_cache"):
            path = Path("/proc/net/stat", table)
            if path.exists():  # of the machine's first network namespace alone
                found.update({f"{table} {name}": count for name, count in neighbours(path.read_text()).items()})
        return found
