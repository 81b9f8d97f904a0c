"""A named instance: where its state is, what it was asked to be, and one user at a time.

Everything that `down` must find can be derived from the name alone; names have no dash, so that
the prefix of one instance is never the prefix of another.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.plan import Family, Plan

DEFAULT_BASE = "/var/lib/metallb-tests"
#: sun_path holds 108 bytes; containerd's socket adds 40 to the base folder and the name.
MAX_BASE = 48


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked; the text says what, why, and where to look."""


def say(text: str) -> None:
    """One line of progress on standard error: standard output stays usable in scripts."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Instance:
    """The name of an instance and the folder that holds all its state."""

    name: str
    base: Path

    @classmethod
    def named(cls, name: str = "") -> Instance:
        """By name, else ``$METALLB_CLUSTER``, else ``dev``; state under ``$METALLB_STATE``. Raises ClusterError."""
        chosen = name or os.environ.get("METALLB_CLUSTER") or "dev"
        if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", chosen):
            raise ClusterError(f"instance name {chosen!r}: must be 1 to 12 lower-case letters and digits, letter first")
        base = Path(os.environ.get("METALLB_STATE") or DEFAULT_BASE).absolute()
        if len(str(base)) > MAX_BASE:
            raise ClusterError(
                f"METALLB_STATE {base}: longer than {MAX_BASE} bytes, too long for unix sockets below it"
            )
        return cls(chosen, base)

    @property
    def prefix(self) -> str:
        """What the names of its network namespaces and control groups begin with."""
        return f"mlb-{self.name}"

    @property
    def folder(self) -> Path:
        return self.base / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def netns(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    @property
    def settings(self) -> Path:
        return self.folder / "instance.json"

    def exists(self) -> bool:
        return self.settings.exists()

    def write(self, plan: Plan, *, complete: bool) -> None:
        """Record what is being made, before it is; and once more when it is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {"nodes": plan.nodes, "family": plan.family.value, "complete": complete, "boot": boot_id()}
        replace_text(self.settings, json.dumps(data))

    def read(self) -> tuple[Plan, bool]:
        """What was asked for, and whether it was completed since the machine started. Raises ClusterError."""
        try:
            data = json.loads(self.settings.read_text())
            plan = Plan(data["nodes"], Family(data["family"]))
            return plan, bool(data["complete"]) and data["boot"] == boot_id()
        except FileNotFoundError:
            raise ClusterError(
                f"no cluster {self.name!r} is up: python -m tests.cluster up --name {self.name}"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{self.settings} is damaged ({error}); run down, then up") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one `up` or `down` of an instance at a time; a second one waits, and says so."""
        path = self.base / f".{self.name}.lock"
        while True:
            self.base.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                try:
                    file = stack.enter_context(open(path, "w"))
                except FileNotFoundError:  # the base folder was just removed by a `down`
                    continue
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"{self.name}: another run is at it; waiting")
                    fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                        continue
                except FileNotFoundError:  # the one before us removed the file that we waited for
                    continue
                try:
                    yield
                finally:
                    if not self.folder.exists():
                        path.unlink(missing_ok=True)
                        with contextlib.suppress(OSError):
                            self.base.rmdir()
                return


def boot_id() -> str:
    """Differs after every start of the machine: process ids recorded before mean nothing then."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def replace_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write the file whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.rename(path)


def until(what: str, test: object, timeout: float = 60.0, every: float = 0.1) -> None:
    """Call `test` until it returns something true. Raises ClusterError naming `what` after `timeout` seconds."""
    assert callable(test)
    end = time.monotonic() + timeout
    while not test():
        if time.monotonic() > end:
            raise ClusterError(f"not within {timeout:.0f} s: {what}")
        time.sleep(every)
