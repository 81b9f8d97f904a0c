"""Log lines without ever waiting for whoever reads them.

Standard output is a pipe to the container runtime; one that is full would stop a process that writes to it,
and with it every answer. So lines are queued, written only while the pipe takes them, and beyond a bound
dropped and counted. The pipe's own mode is left alone: the child process writes to the same one.
"""

from __future__ import annotations

import os
import select
from collections import deque

#: Characters that may wait: some thousand lines.
MAX_WAITING = 1 << 20
#: A writable pipe takes this much without blocking (pipe(7): PIPE_BUF).
ATOMIC = 4096


class Output:
    """A stream for `logs.configure`; `drain` in every turn."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self.dropped = 0  # lines

    def write(self, text: str) -> int:
        if self._size > MAX_WAITING:
            self.dropped += 1
        else:
            data = text.encode("utf-8", "backslashreplace")
            self._waiting.append(data)
            self._size += len(data)
        return len(text)

    def flush(self) -> None:
        """Lines go out in `drain`, many at a time."""

    def drain(self, patience: float = 0.0) -> None:
        """Write what the pipe takes; wait at most `patience` seconds each time that it takes nothing."""
        while self._waiting and self._poll.poll(int(patience * 1000)):
            piece = self._waiting.popleft()
            while self._waiting and len(piece) + len(self._waiting[0]) <= ATOMIC:
                piece += self._waiting.popleft()
            try:
                written = os.write(self._fd, piece[:ATOMIC])
            except BlockingIOError:
                self._waiting.appendleft(piece)
                return
            except OSError:  # nobody reads any more
                self._waiting.clear()
                self._size = 0
                return
            self._size -= written
            if written < len(piece):
                self._waiting.appendleft(piece[written:])
