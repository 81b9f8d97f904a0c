"""The cluster half as a child process, where one container has to do for both halves.

The child is in a session of its own, gets the other end of a socket pair, and ends when that is closed.
Only this child is ever waited for: the process need not be its pod's init.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from metallb_common.obs import logs
from metallb_speaker.announcer.loop import Loop, Priority
from metallb_speaker.flags import LINK_FD

#: Seconds before a child that ended is started again: doubled each time, to at most LAST_WAIT.
FIRST_WAIT, LAST_WAIT = 0.5, 30.0
#: A child that lived this long starts the back-off anew.
LONG_LIFE = 60.0
#: Secrets that the child has no use for.
_WITHHELD = ("METALLB_ML_SECRET_KEY",)


class Child:
    """Keeps the child running until `close`."""

    def __init__(self, loop: Loop, argv: Sequence[str], attach: Callable[[socket.socket], None]) -> None:
        self._loop, self._argv, self._attach = loop, list(argv), attach
        self.pid = 0
        self.restarts = 0
        self._pidfd = -1
        self._since = 0.0
        self._wait = FIRST_WAIT
        self._closing = False

    def start(self, now: float) -> None:
        if self._closing or self.pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environ = {k: v for k, v in os.environ.items() if k not in _WITHHELD} | {LINK_FD: str(theirs.fileno())}
        flags = ["-O"] * sys.flags.optimize
        try:
            os.set_inheritable(theirs.fileno(), True)
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *flags, "-m", "metallb_speaker", *self._argv, "--mode=cluster"],
                environ,
                setsid=True,
                setsigdef=(signal.SIGPIPE,),
            )
        except OSError as failure:
            ours.close()
            logs.error(op="child", msg="the cluster half cannot be started", error=str(failure))
            self._again(now)
            return
        finally:
            theirs.close()
        self._since = now
        logs.info(op="child", msg="cluster half started", pid=self.pid)
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.watch(self._pidfd, self._exited, Priority.LINK)
        except OSError:  # a kernel or a seccomp profile without pidfd: look now and then
            self._pidfd = -1
            self._loop.at(now + 1.0, self._look)
        self._attach(ours)

    def _exited(self, now: float) -> None:
        self._ended(now)

    def _look(self, now: float) -> None:
        if self.pid and not self._ended(now):
            self._loop.at(now + 1.0, self._look)

    def _ended(self, now: float) -> bool:
        """Reap the child if it has ended, and start the next one later."""
        status = self._reap()
        if status is None:
            return False
        self.restarts += 1
        if now - self._since > LONG_LIFE:
            self._wait = FIRST_WAIT
        logs.error(op="child", msg="the cluster half ended; what is announced stays", status=status, again=self._wait)
        self._again(now)
        return True

    def _again(self, now: float) -> None:
        self._loop.at(now + self._wait, self.start)
        self._wait = min(self._wait * 2, LAST_WAIT)

    def _reap(self, options: int = os.WNOHANG) -> int | None:
        """The child's exit code, negative for a signal; None while it runs."""
        if not self.pid:
            return None
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:  # somebody else reaped it
            pid, status = self.pid, 0
        if not pid:
            return None
        self.pid = 0
        if self._pidfd >= 0:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return os.waitstatus_to_exitcode(status)

    def close(self, clock: Callable[[], float], patience: float = 1.0) -> None:
        """After its socket was closed: wait for it, at most `patience` seconds, then kill it."""
        self._closing = True
        if not self.pid:
            return
        if self._pidfd >= 0:
            import select

            with contextlib.suppress(OSError):
                select.select([self._pidfd], [], [], patience)
        else:
            import time

            end = clock() + patience
            while self._reap() is None and self.pid and clock() < end:
                time.sleep(0.02)
        if self.pid and self._reap() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap(0)
