"""Virtual time for coroutines: nobody sleeps, and every timer still comes when it is due."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Skip(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left that could happen"
        self.now += max(timeout, 0.0)
        return super().select(0)


def run(body: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in no time. `body` may wait for timers only, not for sockets or threads."""
    clock = _Skip()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = lambda: clock.now  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(body)
