"""A loop that hangs is ended; one that is busy for a while is not."""

from __future__ import annotations

import asyncio
import threading
import time

from metallb_speaker.cluster.watchdog import Watchdog


def test_a_hanging_loop_is_ended_a_busy_one_is_not() -> None:
    ended = threading.Event()

    async def main() -> None:
        task = asyncio.create_task(Watchdog(look=0.02, looks=25, end=ended.set).run())
        await asyncio.sleep(0.1)
        time.sleep(0.1)  # noqa: ASYNC251 (busy)
        await asyncio.sleep(0.1)
        assert not ended.is_set()
        assert ended.wait(30)  # it hangs
        task.cancel()

    async def in_order() -> None:
        task = asyncio.create_task(Watchdog(look=0.02, looks=25, end=ended.set).run())
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(main())
    ended.clear()
    asyncio.run(in_order())
    assert not ended.wait(1.0)
