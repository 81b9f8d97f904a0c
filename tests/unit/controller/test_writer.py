"""Writes and what is told of them, with a server whose watch and answers come in any order."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_controller.apply import Writer
from metallb_controller.tracked import Tracked
from tests.unit.controller.make import World, pool, world
from tests.unit.controller.virtual import run


class Server:
    """One Service, and how a status write of it goes: what the watch brings before the answer, and the answer."""

    def __init__(self, made: World) -> None:
        self.world = made
        self.version = 1
        self.writes: list[float] = []
        self.told: list[str] = []
        self.between: Callable[[], None] = lambda: None  # after the write, before its answer
        self.lost = False
        self.object: dict[str, Any] = {
            "metadata": {"namespace": "default", "name": "web", "uid": "u", "resourceVersion": "1"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
            "status": {},
        }

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        if method == "PUT":
            self.writes.append(asyncio.get_running_loop().time())
            if body["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict")
            self.change(status=body["status"], annotations=body["metadata"].get("annotations"))
            answer = copy.deepcopy(self.object)
            self.between()
            if self.lost:
                raise ApiError(0, "Unreachable")
            return answer
        return copy.deepcopy(self.object)

    async def deliver(self, ref: Any, kind: str, reason: str, message: str) -> None:
        await asyncio.sleep(0.01)
        self.told.append(reason)

    def change(self, *, status: dict[str, Any], annotations: dict[str, str] | None = None) -> None:
        self.version += 1
        self.object["metadata"]["resourceVersion"] = str(self.version)
        self.object["metadata"]["annotations"] = annotations or self.object["metadata"].get("annotations")
        self.object["status"] = status

    def watch(self) -> None:
        """The newest version comes by the watch."""
        self.world.assigner.upsert(Tracked.from_json(copy.deepcopy(self.object)))

    def think(self) -> None:
        while self.world.assigner.busy:
            self.world.assigner.reconcile(100)

    def clear(self) -> None:
        self.change(status={})
        self.watch()


@pytest.mark.parametrize("status", [401, 403])
def test_no_attempt_begins_after_the_lease_has_run_out(status: int) -> None:
    """A server that refuses is slow, and says afterwards that it is ready, or there is a new token."""

    class Renewed:
        def headers(self, now: float) -> dict[str, str]:
            return {}

        async def renew(self) -> bool:
            return True

    class Answer:
        def __init__(self, made: Server, method: str, url: Any) -> None:
            self.server, self.method, self.path = made, method, url.path
            self.headers: dict[str, str] = {}
            self.status = 200

        async def __aenter__(self) -> Answer:
            if self.method == "PUT":
                self.server.writes.append(asyncio.get_running_loop().time())
                self.status = status if len(self.server.writes) == 1 else 200
            await asyncio.sleep(1.0)
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def read(self) -> bytes:
            return json.dumps(self.server.object if self.method == "PUT" else {}).encode()

    class Session:
        def __init__(self, made: Server) -> None:
            self.server = made

        def request(self, method: str, url: Any, **_: Any) -> Answer:
            return Answer(self.server, method, url)

    async def body() -> None:
        made = world(pool("p", "192.0.2.0/30"))
        server = Server(made)
        loop = asyncio.get_running_loop()
        leads = [0.0, 0.9]
        api = Api(Session(server), "http://x", Renewed())  # type: ignore[arg-type]
        writer = Writer(
            api,
            made.assigner,
            server,
            lambda: leads[0] <= loop.time() < leads[1],
            lambda: None,
            lambda: None,  # type: ignore[arg-type]
        )
        made.submit = writer.submit  # type: ignore[method-assign]
        task = asyncio.create_task(writer.run())
        server.watch()
        server.think()
        await asyncio.sleep(20.0)
        assert len(server.writes) == 1
        leads[:] = [20.0, 100.0]
        await asyncio.sleep(20.0)
        assert len(server.writes) == 2, "the new token, or the right, is used as soon as we lead again"
        task.cancel()
        await asyncio.wait([task])

    run(body())


@pytest.mark.parametrize("order", ["answer", "watch", "watch and plan", "watch and another clearing", "lost"])
def test_every_address_that_is_written_is_told_whoever_is_faster(order: str) -> None:
    """Somebody takes the status away, again and again: it is repaired, and each time it is told."""

    async def body() -> None:
        made = world(pool("p", "192.0.2.0/30"))
        server = Server(made)

        def between() -> None:
            if order.startswith("watch"):
                server.watch()
            if order == "watch and plan":
                server.think()
            elif order == "watch and another clearing" and len(server.writes) < 3:
                server.clear()

        server.between, server.lost = between, order == "lost"
        writer = Writer(server, made.assigner, server, lambda: True, lambda: None, lambda: None)  # type: ignore[arg-type]
        made.submit = writer.submit  # type: ignore[method-assign]
        task = asyncio.create_task(writer.run())
        server.watch()
        for _ in range(3):
            for _ in range(100):
                server.think()
                await asyncio.sleep(0.05)
            assert server.object["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.0"}]
            if order == "watch and another clearing":
                break
            server.clear()
        writes = len(server.writes)
        assert writes == 3
        assert server.told == ["IPAllocated"] * writes
        task.cancel()
        await asyncio.wait([task])

    run(body())


def test_a_service_that_was_made_anew_is_not_written_until_the_watch_brings_it() -> None:
    """And the server is not asked over and over meanwhile."""

    async def body() -> None:
        made = world(pool("p", "192.0.2.0/30"))
        server = Server(made)
        writer = Writer(server, made.assigner, server, lambda: True, lambda: None, lambda: None)  # type: ignore[arg-type]
        made.submit = writer.submit  # type: ignore[method-assign]
        task = asyncio.create_task(writer.run())
        server.watch()
        server.object["metadata"]["uid"] = "another"
        server.change(status={})
        for _ in range(100):
            server.think()
            await asyncio.sleep(0.05)
        assert len(server.writes) < 12
        server.watch()
        for _ in range(100):
            server.think()
            await asyncio.sleep(0.05)
        assert server.object["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.0"}]
        task.cancel()
        await asyncio.wait([task])

    run(body())


def test_an_ordered_end_waits_for_the_write_that_is_under_way_and_begins_none() -> None:
    """One that is broken off may happen after the next leader has listed what is there."""

    async def body() -> None:
        made = world(pool("p", "192.0.2.0/30"))
        server = Server(made)
        writer = Writer(server, made.assigner, server, lambda: True, lambda: None, lambda: None)  # type: ignore[arg-type]
        made.submit = writer.submit  # type: ignore[method-assign]
        task = asyncio.create_task(writer.run())
        server.watch()
        server.think()
        await asyncio.sleep(0.015)  # it has been told, and is being written
        assert writer._under_way == 1
        assert server.writes == []
        await writer.finish()
        assert len(server.writes) == 1
        assert server.object["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.0"}]
        server.clear()
        server.think()
        await asyncio.sleep(10.0)
        assert len(server.writes) == 1
        task.cancel()
        await asyncio.wait([task])

    run(body())
