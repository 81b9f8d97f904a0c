"""A term of leadership: the configuration, the object that keeps it, and an API server in memory."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import ObjectRef
from metallb_controller.configs import Configs, Settings, Source
from metallb_controller.metrics import Metrics
from tests.unit.controller.make import World

ACCEPTED = "/api/v1/namespaces/n/configmaps/accepted"
DEPLOYMENT = "/apis/apps/v1/namespaces/n/deployments/controller"
P, Q = "192.0.2.0/29", "198.51.100.0/29"


def document(**pools: str) -> str:
    lines = (f"- {{name: {n}, protocol: layer2, addresses: [{a}]}}" for n, a in pools.items())
    return "\n".join(["address-pools:", *lines])


class Server:
    """ConfigMaps and Deployments by path, with a watch of one object; every write in order."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.written: list[str] = []
        self.denied = False
        self.refuses: ApiError | None = None  # every write
        self.version = 0
        self.news: asyncio.Queue[bytes] = asyncio.Queue()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Any = None,
        timeout: float = 0,  # noqa: ASYNC109
        once: bool = False,
    ) -> dict[str, Any]:
        if path == DEPLOYMENT and ACCEPTED in self.objects:
            self._change(ACCEPTED, self.objects[ACCEPTED])  # the watch brings what is there
            await asyncio.sleep(0.03)
        await asyncio.sleep(0)
        if "fieldSelector" in (query or {}):
            return {"metadata": {}, "items": [self.objects[ACCEPTED]] if ACCEPTED in self.objects else []}
        if self.denied and body is not None:
            raise ApiError(403, "Forbidden")
        where = f"{path}/{body['metadata']['name']}" if method == "POST" else path
        if method != "POST" and where not in self.objects:
            raise ApiError(404, "NotFound")
        if body is not None:
            await self.before_write()
            if self.refuses is not None:
                raise self.refuses
            if method == "POST" and where in self.objects:
                raise ApiError(409, "AlreadyExists")
            if method == "PUT" and self._version(body) not in ("", self._version(self.objects[where])):
                raise ApiError(409, "Conflict")
            self.written.append(method)
            self._change(where, copy.deepcopy(body))
        return copy.deepcopy(self.objects[where])

    @staticmethod
    def _version(obj: dict[str, Any]) -> str:
        return str(obj["metadata"].get("resourceVersion", ""))

    async def before_write(self) -> None:
        """What else happens just before."""

    async def stream(self, path: str, query: Any, *, idle: float) -> AsyncIterator[bytes]:
        while True:
            yield await self.news.get()

    def _change(self, where: str, new: dict[str, Any] | None) -> None:
        old = self.objects.pop(where, None)
        if new is not None:
            self.version += 1
            new["metadata"]["resourceVersion"] = str(self.version)
            self.objects[where] = new
        if where == ACCEPTED:
            event = {"type": "MODIFIED" if new else "DELETED", "object": new or old}
            self.news.put_nowait(json.dumps(event).encode())

    def store(self, text: str) -> None:
        self._change(ACCEPTED, {"metadata": {"name": "accepted"}, "data": {"config": text}})

    def remove(self, where: str) -> None:
        self._change(where, None)

    def deploy(self, uid: str) -> None:
        self.objects[DEPLOYMENT] = {"metadata": {"name": "controller", "uid": uid}}

    def owners(self) -> list[str]:
        return [owner["uid"] for owner in self.objects[ACCEPTED]["metadata"].get("ownerReferences", ())]


class Begin:
    """A term begins: the user's config is known, the list of Services comes when `listed` is called."""

    def __init__(self, user: str, stored: str | None, *, reallocate: bool = False, deployment: str = "") -> None:
        self.world, self.server, self.metrics = World(), Server(), Metrics()
        if stored is not None:
            self.server.store(stored)
        settings = Settings("n", "config", "accepted", deployment, reallocate)
        self.told: list[tuple[str, str, str]] = []  # name, reason, message
        self.leads = True
        self.configs = Configs(self.server, self, self.metrics, settings)  # type: ignore[arg-type]
        self.configs.lead(self.world.assigner, lambda: self.leads)
        self.edit(user)

    def edit(self, user: str, version: str = "7") -> None:
        self.configs.replace([Source({"config": user}, version, "u")])

    def emit(self, ref: ObjectRef, kind: str, reason: str, message: str, *, version: str = "") -> None:
        assert kind == "Warning"
        self.told.append((ref.name, reason, message))

    def listed(self) -> None:
        """Whoever wakes first: here it is who plans."""
        self.world.sync()
        self.world.settle()
        self.configs.synced()

    def stored(self) -> str:
        return str(self.server.objects[ACCEPTED]["data"]["config"])


def run(begin: Callable[[], Begin], body: Callable[[Begin], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        made = begin()
        watch = made.configs.watch_stored()
        assert watch is not None
        tasks = [asyncio.create_task(made.configs.run()), asyncio.create_task(watch.run())]
        try:
            await body(made)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    asyncio.run(all_of_it())


async def until(what: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while not what():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)
