"""Writes whose answers never come, against a real API server: what they may have done counts until it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from metallb_common.config.model import Config
from metallb_common.kube.client import Api, connect
from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import EventRecorder
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import SERVICES
from metallb_common.kube.views import Service
from metallb_controller import apply
from metallb_controller.apply import Writer
from metallb_controller.assigner import Assigner, reference
from metallb_controller.plan import Say
from metallb_controller.wishes import Rules
from tests.controller_lab import Lab
from tests.unit.controller.make import config, pool

Answer = Callable[[Awaitable[dict[str, Any]]], Awaitable[dict[str, Any]]]


class Wire:
    """Assigner and writer as in a term of the controller, and a fault for the writes of one Service."""

    def __init__(self, api: Api) -> None:
        self.api, self.real = api, api.request
        api.request = self._request  # type: ignore[method-assign]
        self.faults: dict[str, Answer] = {}  # by name of the Service
        self.begun: list[str] = []
        self.failures = 0
        self.leads = True
        self.recorder = EventRecorder(api, "metallb-test")
        self.assigner = Assigner(Rules(), self)
        self.writer = Writer(api, self.assigner, self.recorder, lambda: self.leads, self._failed, lambda: None)
        self.watch = ListWatch(api, SERVICES, self.assigner.parse, self.assigner)

    def _failed(self) -> None:
        self.failures += 1

    async def _request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        if method == "PUT" and path.endswith("/status"):
            name = path.split("/")[-2]
            self.begun.append(name)
            if name in self.faults:
                return await self.faults[name](self.real(method, path, **more))
        return await self.real(method, path, **more)

    def submit(self, key: str) -> None:
        self.writer.submit(key)

    def tell(self, view: Service, say: Say) -> None:
        self.recorder.emit(reference(view), say.type, say.reason, say.message)

    def freed(self) -> None: ...
    def stirred(self) -> None: ...
    def accepted(self, config: Config) -> None: ...
    def counted(self, *, error: bool = False) -> None:
        assert not error

    async def think(self) -> None:
        while True:
            while self.assigner.busy:
                self.assigner.reconcile(100)
            await asyncio.sleep(0.01)


def run(here: Lab, body: Callable[[Wire], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        wire = Wire(await connect(here.server.kubeconfig()))
        tasks = [asyncio.create_task(job) for job in (wire.watch.run(), wire.writer.run(), wire.think())]
        try:
            await body(wire)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await wire.api.close()

    asyncio.run(all_of_it())


async def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(what):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("status", [0, 500, 504])
@pytest.mark.parametrize("happened", [True, False])
def test_a_write_without_an_answer_is_found_or_done_again(here: Lab, status: int, happened: bool) -> None:
    async def body(wire: Wire) -> None:
        async def unanswered(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            del wire.faults["web"]
            if happened:
                await call
            else:
                call.close()  # type: ignore[attr-defined]
            raise ApiError(status, "Fault", "the answer is lost")

        wire.faults["web"] = unanswered
        wire.assigner.accept(config(pool("p", "192.0.2.0/30")))
        here.create("web")
        await until(lambda: here.ip("web") == ("192.0.2.0",))
        await until(lambda: not wire.assigner.doubtful("default/web"))
        await until(lambda: not len(wire.writer))
        assert len(wire.begun) <= 3

    run(here, body)


def test_what_a_lost_write_may_have_added_is_waited_for_and_then_looked_at(
    here: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`friend` joins `holder`, its write is lost; edits let it want another address, which it cannot get written."""
    monkeypatch.setattr(apply, "SETTLED", 6.0)  # longer than all of this takes, also where the machine stands still

    def annotate(name: str, **annotations: str | None) -> None:
        named = {"metallb.universe.tf/" + k.replace("_", "-"): v for k, v in annotations.items()}
        here.server.merge(f"/api/v1/namespaces/default/services/{name}", {"metadata": {"annotations": named}})

    async def body(wire: Wire) -> None:
        lost_at = 0.0

        async def lost(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            nonlocal lost_at
            call.close()  # type: ignore[attr-defined]
            lost_at = lost_at or asyncio.get_running_loop().time()
            raise ApiError(0, "Fault", "lost")

        async def busy(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            call.close()  # type: ignore[attr-defined]
            raise ApiError(429, "TooManyRequests", "later")

        wire.assigner.accept(config(pool("p", "192.0.2.0/30")))
        here.create("holder", annotations={"metallb.universe.tf/allow-shared-ip": "k"})
        await until(lambda: here.ip("holder"))
        wire.faults["friend"] = lost
        here.create("friend", annotations={"metallb.universe.tf/allow-shared-ip": "k"}, ports=[{"port": 443}])
        await until(lambda: wire.assigner.doubtful("default/friend"))
        wire.faults["friend"] = busy  # from now on it is certain that nothing more is written
        await asyncio.to_thread(annotate, "holder", allow_shared_ip=None)
        await asyncio.to_thread(annotate, "holder", loadBalancerIPs="192.0.2.3")
        await until(lambda: here.ip("holder") == ("192.0.2.3",))
        here.create("late", loadBalancerIP="192.0.2.0")
        await asyncio.sleep(0.3)
        assert "late" not in wire.begun, "the lost write may still show the address on the friend"
        wire.assigner.services["default/friend"].decided = None  # as if what it has were all that it wants
        wire.writer.submit("default/friend")
        await until(lambda: here.ip("late") == ("192.0.2.0",))
        assert asyncio.get_running_loop().time() - lost_at >= 6.0
        assert here.ip("friend") == ()

    run(here, body)


def test_a_refused_write_holds_up_only_who_wants_the_address(here: Lab) -> None:
    async def body(wire: Wire) -> None:
        async def busy(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            call.close()  # type: ignore[attr-defined]
            raise ApiError(429, "TooManyRequests", "later", retry_after=0.1)

        wire.assigner.accept(config(pool("p", "192.0.2.0/29")))
        here.create("old")
        await until(lambda: here.ip("old"))
        wire.faults["old"] = busy
        asked = {"metallb.universe.tf/loadBalancerIPs": "192.0.2.6"}
        here.server.merge("/api/v1/namespaces/default/services/old", {"metadata": {"annotations": asked}})
        await until(lambda: wire.begun.count("old") > 1)
        here.create("new", loadBalancerIP="192.0.2.0")
        for i in range(5):
            here.create(f"other{i}")
        await until(lambda: all(here.ip(f"other{i}") for i in range(5)))
        assert "new" not in wire.begun
        assert wire.assigner.summary()["handovers"] == 1
        del wire.faults["old"]
        await until(lambda: here.ip("new") == ("192.0.2.0",))
        assert here.ip("old") == ("192.0.2.6",)

    run(here, body)


def test_nothing_is_written_while_another_may_lead(here: Lab) -> None:
    async def body(wire: Wire) -> None:
        wire.leads = False
        wire.assigner.accept(config(pool("p", "192.0.2.0/30")))
        here.create("web")
        await until(lambda: wire.assigner.work("default/web"))
        await asyncio.sleep(0.5)
        assert wire.begun == []
        assert here.ip("web") == ()
        wire.leads = True
        await until(lambda: here.ip("web"))

    run(here, body)


def test_what_could_not_be_written_is_written_soon_after_the_server_is_back(
    here: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was away, and so however long the next attempt would have been waited for."""

    class Long(apply.Backoff):
        def next(self, at_least: float | None = None) -> float:
            super().next(at_least)
            return 600.0

    async def body(wire: Wire) -> None:
        wire.assigner.accept(config(pool("p", "192.0.2.0/28")))
        here.create("before")
        await until(lambda: here.ip("before"))
        for i in range(8):
            wire.faults[f"s{i}"] = held
            here.create(f"s{i}")
        await until(lambda: len(wire.begun) >= 9)
        monkeypatch.setattr(apply, "Backoff", Long)
        await asyncio.to_thread(here.server.stop_api)
        wire.faults.clear()
        go.set()
        await until(lambda: len(wire.writer._delays) == 8)
        await asyncio.to_thread(here.server.start_api)
        await until(here.all_have_addresses)  # the list after the restart brings all of them up again

    go = asyncio.Event()

    async def held(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        await go.wait()
        return await call

    run(here, body)
