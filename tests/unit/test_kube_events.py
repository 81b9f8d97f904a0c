"""The budgets of events, and what a server that does not take them holds up: nothing for long."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from metallb_common.kube import events
from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import BURST, HUNG, HUNG_PAUSE, EventRecorder, ObjectRef
from tests.unit.controller.virtual import run

WEB = ObjectRef("Service", "web", "default", "u")


class Server:
    """Takes events, or hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.taken: list[tuple[str, str]] = []  # name of the object, reason

    async def request(self, method: str, path: str, *, body: Any, timeout: float, **_: Any) -> dict[str, Any]:  # noqa: ASYNC109
        if self.hangs:
            await asyncio.sleep(timeout)
            raise ApiError(0, "Unreachable")
        await asyncio.sleep(0.01)
        if method == "POST":
            self.taken.append((body["involvedObject"]["name"], body["reason"]))
        return {}


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), time_ns=time.time_ns)
    monkeypatch.setattr(events, "time", clock)


def test_no_number_of_warnings_keeps_a_change_from_being_told() -> None:
    async def body() -> None:
        server = Server()
        recorder = EventRecorder(server, "test")  # type: ignore[arg-type]
        for i in range(2 * BURST):
            recorder.emit(WEB, "Warning", "AllocationFailed", f"for reason {i}")
        for i in range(BURST):
            assert await recorder.deliver(WEB, "Normal", "IPAllocated", f"address {i}")
        assert not await recorder.deliver(WEB, "Normal", "IPAllocated", "one too many"), "it has a bound, too"
        await recorder.close()
        assert server.taken.count(("web", "AllocationFailed")) == BURST
        assert server.taken.count(("web", "IPAllocated")) == BURST

    run(body())


def test_changes_keep_no_warning_from_being_told() -> None:
    async def body() -> None:
        server = Server()
        recorder = EventRecorder(server, "test")  # type: ignore[arg-type]
        for i in range(2 * BURST):
            await recorder.deliver(WEB, "Normal", "IPAllocated", f"address {i}")
        recorder.emit(WEB, "Warning", "AllocationFailed", "why")
        await recorder.close()
        assert ("web", "AllocationFailed") in server.taken

    run(body())


def test_a_store_of_events_that_hangs_holds_up_little(capsys: pytest.CaptureFixture[str]) -> None:
    """One second for the first ones, and then one delivery in ten seconds; all are told when it is back."""

    async def body() -> None:
        server, clock = Server(), asyncio.get_running_loop()
        recorder = EventRecorder(server, "test")  # type: ignore[arg-type]
        server.hangs = True
        numbers = iter(range(100_000))

        async def change() -> bool:
            ref = ObjectRef("Service", f"s{next(numbers)}", "default", "u")
            return await recorder.deliver(ref, "Normal", "IPAllocated", "address")

        async def changes(seconds: float) -> int:
            """By eight writers, each of whom takes 10 ms for a write besides."""
            until, done = clock.time() + seconds, 0

            async def writer() -> None:
                nonlocal done
                while clock.time() < until:
                    await change()
                    await asyncio.sleep(0.01)
                    done += 1

            await asyncio.gather(*(writer() for _ in range(8)))
            return done

        assert await changes(1.5) > 8 * 40
        unhindered = 8 * 5 * HUNG_PAUSE / 0.01
        assert await changes(5 * HUNG_PAUSE) > 0.95 * unhindered
        assert capsys.readouterr().out.count("nothing waits for them") == 1
        server.hangs = False
        await asyncio.sleep(HUNG_PAUSE)
        assert await change()
        assert await change()
        assert recorder._in_vain == 0

    run(body())


def test_every_change_is_told_when_the_store_is_back() -> None:
    async def body() -> None:
        server = Server()
        recorder = EventRecorder(server, "test")  # type: ignore[arg-type]
        task = asyncio.create_task(recorder.run())
        server.hangs = True
        for i in range(HUNG + 20):
            await recorder.deliver(ObjectRef("Service", f"s{i}"), "Normal", "IPAllocated", "address")
        server.hangs = False
        await asyncio.sleep(60.0)
        assert {name for name, _ in server.taken} == {f"s{i}" for i in range(HUNG + 20)}
        task.cancel()
        await asyncio.wait([task])

    run(body())
