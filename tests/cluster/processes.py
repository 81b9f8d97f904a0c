"""Long-running processes of an instance: recorded before they start, known by process id AND start time.

A reused process id has another start time (field 22 of /proc/PID/stat), so nothing foreign is ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.cluster import cgroups
from tests.cluster.instance import ClusterError, Instance, replace_text, until

#: Joins the control group, then waits for the word that it is on record. If its parent dies before, it
#: reads the end of the pipe and ends; so there is never a process that runs without a record.
_TRAMPOLINE = 'echo $$ >"$0" || exit 1; read -r go || exit 1; exec "$@" </dev/null'


@dataclass(frozen=True)
class Program:
    """What to run, and in whose network (and, for a node, mount) namespace."""

    name: str
    host: str
    argv: list[str]
    mounts_of: str = ""  # the process whose mount namespace to enter; "" for the machine's own
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    pid: int
    started: int  # clock ticks after boot


class Processes:
    """The processes of one instance, by name. Every method works from any process of the machine."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._folder = instance.folder / "processes"

    def names(self) -> list[str]:
        return sorted(p.stem for p in self._folder.glob("*.program"))

    def program(self, name: str) -> Program:
        try:
            return Program(**json.loads((self._folder / f"{name}.program").read_text()))
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise ClusterError(f"no process {name!r} in {self._instance.name}; known: {known}") from None

    def log(self, name: str) -> Path:
        return self._instance.folder / "log" / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The process id if that very process still runs, else None."""
        try:
            pid, started = map(int, (self._folder / f"{name}.pid").read_text().split())
        except (FileNotFoundError, ValueError):
            return None
        return pid if running(Record(pid, started)) else None

    def start(self, program: Program) -> int:
        """Start it in the background and record it; its output goes to `log`. Raises ClusterError if it runs."""
        if self.pid(program.name):
            raise ClusterError(f"{program.name} runs already")
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self.log(program.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._folder / f"{program.name}.program", json.dumps(asdict(program)))
        argv = self.enter(program.host, mounts_of=program.mounts_of) + program.argv
        group = cgroups.daemons(self._instance) / "cgroup.procs"
        reader, writer = os.pipe()
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _TRAMPOLINE, str(group), *argv],
                {**os.environ, **program.environment},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,  # a Ctrl-C at the terminal is for the caller, not for the cluster
                setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE],
            )
            started = start_time(pid)
            if started is None:
                raise ClusterError(f"{program.name} ended at once; see {log}")
            replace_text(self._folder / f"{program.name}.pid", f"{pid} {started}")
            with contextlib.suppress(BrokenPipeError):
                os.write(writer, b"go\n")
        finally:
            os.close(reader)
            os.close(writer)
        return pid

    def restart(self, name: str) -> int:
        """Stop it if it runs, and start it again as it was started."""
        self.stop(name)
        return self.start(self.program(name))

    def stop(self, name: str, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after `timeout` seconds. Fine if it does not run."""
        self.program(name)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.signal(name, number):
                return
            if number == signal.SIGTERM:
                self.signal(name, signal.SIGCONT)
            wait = timeout if number == signal.SIGTERM else 30.0
            with contextlib.suppress(ClusterError):
                until(f"{name} ends", lambda: self.pid(name) is None, wait, 0.02)
                return
        raise ClusterError(f"{name} does not end")

    def forget(self, name: str) -> None:
        """Stop it, and let it be no part of the cluster any more: its absence is no fault then."""
        self.stop(name)
        for file in self._folder.glob(f"{name}.*"):
            if file.suffix != ".log":
                file.unlink()

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; False if the recorded process does not run any more."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def enter(self, host: str, *, mounts_of: str = "") -> list[str]:
        """The command that runs what follows it inside a host. Raises ClusterError if there is no such host."""
        if not host:  # the machine itself
            return []
        namespace = Path("/run/netns") / self._instance.netns(host)
        if not namespace.exists():
            raise ClusterError(f"no host {host!r} in {self._instance.name}")
        argv = ["nsenter", f"--net={namespace}"]
        if mounts_of:
            holder = self.pid(mounts_of)
            if holder is None:
                raise ClusterError(f"{mounts_of} does not run: down, then up")
            argv.append(f"--mount=/proc/{holder}/ns/mnt")
        return [*argv, "--"]

    def tail(self, name: str, lines: int = 15) -> str:
        """The end of the log, for error messages."""
        try:
            text = self.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def describe(self, name: str) -> str:
        return shlex.join(self.program(name).argv)


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None if there is no such process or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold blanks and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def stopped(pid: int) -> bool:
    """Whether every thread stands still, or has ended: a signal takes a moment to reach them all."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return all(state in "TtZX" for state in states)


def running(record: Record) -> bool:
    now = start_time(record.pid)
    if now is None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(record.pid, os.WNOHANG)  # a child of ours that ended: leave no zombie
    return now == record.started
