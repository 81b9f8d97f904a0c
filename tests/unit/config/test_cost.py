"""What it costs to judge a configuration of 10,000 pools: processor seconds and memory, by the program itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).with_name("metallb-config")
COUNT = 10_000
#: Processor seconds. They are longer ones where the other half of a core is busy, too; `make accept` holds the target.
LIMIT, TARGET = 10.0, 3.0


def _cost(*arguments: str) -> tuple[float, float, str]:
    """CPU seconds, peak memory in MiB, and the output."""
    process = subprocess.Popen([str(PROGRAM), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out


@pytest.mark.parametrize("limit", [LIMIT, pytest.param(TARGET, marks=pytest.mark.accept)])
def test_ten_thousand_pools(tmp_path: Path, limit: float) -> None:
    file = tmp_path / "pools.yaml"
    pools = "".join(
        f"- name: pool-{i}\n  protocol: layer2\n  addresses:\n  - 10.{i >> 8}.{i & 255}.0/25\n"
        f"  - 10.{i >> 8}.{i & 255}.128-10.{i >> 8}.{i & 255}.250\n"
        for i in range(COUNT)
    )
    file.write_text("address-pools:\n" + pools, "utf-8")
    seconds, mebibytes, out = _cost("check", str(file))
    assert out == ""
    print(f"10,000 pools: {seconds:.2f} s of a processor, at most {limit:g}; {mebibytes:.0f} MiB, at most 200")
    assert seconds <= limit
    assert mebibytes <= 200
    seconds, mebibytes, out = _cost("check", "--json", str(file))
    assert len(json.loads(out)[0]["config"]["pools"]) == COUNT
    print(f"10,000 pools: {seconds:.2f} s of a processor, at most {limit:g}; {mebibytes:.0f} MiB, at most 200")
    assert seconds <= limit
    assert mebibytes <= 200
