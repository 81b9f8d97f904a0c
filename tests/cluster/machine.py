"""The one setting of the machine that several clusters need raised, and its return to what it was.

Every kubelet, kube-proxy, API server and containerd watches files by inotify: a cluster of three nodes takes about 35
instances, and Debian allows 128 to all processes of root together. So the limit is raised while clusters are up.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.cluster.instance import replace_text, say

LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
WATCHES = 1024
_RECORD = ".inotify-before"


def allow_watches(base: Path) -> None:
    """Raise the limit if it is lower, with what it was on record first. `base`: the folder of all instances."""
    try:
        now = int(LIMIT.read_text())
        if now >= WATCHES:
            return
        base.mkdir(parents=True, exist_ok=True)
        replace_text(base / _RECORD, f"{now}\n")
        LIMIT.write_text(f"{WATCHES}\n")
        say(f"{LIMIT} is {WATCHES}, not {now}, while clusters are up: several need more than the default")
    except (OSError, ValueError) as error:
        say(f"{LIMIT} stays as it is: {error}")


def restore_watches(base: Path) -> None:
    """Put the limit back once no instance is left, unless somebody has set it to something else meanwhile."""
    record = base / _RECORD
    if not record.exists() or any(base.glob("*/instance.json")):
        return
    with contextlib.suppress(OSError, ValueError):
        if int(LIMIT.read_text()) == WATCHES:
            LIMIT.write_text(f"{int(record.read_text())}\n")
    record.unlink(missing_ok=True)
