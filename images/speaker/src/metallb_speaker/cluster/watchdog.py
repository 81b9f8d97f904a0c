"""Ends the cluster half when its event loop hangs: whoever started it starts it again.

The announcer goes on meanwhile. Counted in looks rather than in seconds, so that a process that was
stopped for a while is not taken for one that hangs.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

from metallb_common.obs import logs

BEAT = 2.0
#: Seconds between two looks, and looks in a row without a beat: a minute in all.
LOOK, LOOKS = 5.0, 12


def _end() -> None:
    os._exit(70)  # EX_SOFTWARE


class Watchdog:
    """`run` beats in the loop; a thread looks."""

    def __init__(self, *, look: float = LOOK, looks: int = LOOKS, end: Callable[[], None] = _end) -> None:
        self._look, self._looks, self._end = look, looks, end
        self._beats = 0
        self._off = False

    async def run(self) -> None:
        """For ever, as one of the loop's tasks."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        try:
            while True:
                self._beats += 1
                await asyncio.sleep(min(BEAT, self._look / 2))
        finally:
            self._off = True  # the loop ends in order

    def _watch(self) -> None:
        seen, missed = 0, 0
        while missed < self._looks:
            time.sleep(self._look)
            if self._off:
                return
            missed = missed + 1 if self._beats == seen else 0
            seen = self._beats
        logs.error(op="watchdog", msg="the event loop hangs: ending, to be started again")
        self._end()
