"""What the fault series asks kernels about a connection that was not made."""

from __future__ import annotations

import subprocess
from typing import Any, cast

from tests.cluster.observe import Inside
from tests.e2e.kernels import Kernels, backlog, neighbours, tracking

STATISTICS = """\
cpu=0   	found=3 invalid=1 insert=0 insert_failed=2 drop=0 early_drop=0 error=0 search_restart=0 chaintoolong=0
cpu=1   	found=0 invalid=4 insert=0 insert_failed=0 drop=1 early_drop=0 error=0 search_restart=0 chaintoolong=0
"""
NEIGHBOURS = """\
entries  allocs   res_failed forced_gc_runs unresolved_discards table_fulls
0000005f 00000a81 00000002   00000001       00000000            0000000a
0000005f 000008e1 00000010   00000000       00000000            00000001
"""
ENTRY = (
    "tcp      6 78 TIME_WAIT src=fd00::9 dst={} sport=4000 dport=80 src=fd00::5 dst=fd00::1 sport=8080 dport=9 use=1\n"
)


def test_the_kernels_tables_are_read() -> None:
    assert +tracking(STATISTICS) == {"invalid": 5, "insert_failed": 2, "drop": 1}
    assert backlog("005b5b7b 00000002 00000000\n0060d286 0000000a 00000000\n") == 12
    assert +neighbours(NEIGHBOURS) == {"res_failed": 18, "forced_gc_runs": 1, "table_fulls": 11}


def test_entries_of_the_same_port_and_what_was_counted_are_told() -> None:
    class Lab:
        dropped = 1

        def run_in(self, host: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
            told = STATISTICS.replace("drop=1", f"drop={self.dropped}")
            if "-L" in argv:
                assert argv[-4:] == ("-f", "ipv6", "--orig-port-src", "4000")
                told = ENTRY.format("fd00::7") + ENTRY.format("fd00::8") if host == "node2" else ""
            return subprocess.CompletedProcess(argv, 0, told, "")

    lab = Lab()
    kernels = Kernels(cast("Inside", lab), ["node1", "node2"])
    lab.dropped = 3
    told = kernels.of("fd00::7", 4000)
    assert told[0] == "node2 tracks " + " ".join(ENTRY.format("fd00::7").split())
    assert {"node1 conntrack drop +2", "node2 conntrack drop +2"} <= set(told)
    assert "fd00::8" not in " ".join(told)
