"""Kernel settings under /proc/sys, read only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

IPV4_CONF = Path("/proc/sys/net/ipv4/conf")


def arp_ignore(names: Iterable[str], root: Path = IPV4_CONF) -> dict[str, int]:
    """net.ipv4.conf.NAME.arp_ignore by NAME, with "all"; what cannot be read is left out."""
    out: dict[str, int] = {}
    for name in ("all", *names):
        with contextlib.suppress(OSError, ValueError):
            out[name] = int((root / name / "arp_ignore").read_text())
    return out
