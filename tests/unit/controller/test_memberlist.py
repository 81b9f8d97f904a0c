"""The Secret with the membership key, after it was made: it comes back when it goes, unless its owner went, too."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_controller import memberlist


class Server(Api):
    """One Secret and one Deployment; `wake` counts looks at the Secret."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.deployment: str | None = "uid"
        self.keys: list[str] = []
        self.looks = 0

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        await asyncio.sleep(0)
        if "/deployments/" in path:
            if self.deployment is None:
                raise ApiError(404, "NotFound")
            return {"metadata": {"name": "controller", "uid": self.deployment}}
        if method == "GET":
            self.looks += 1
            return {"items": [self.secret] if self.secret else []}
        self.secret = dict(body)
        self.keys.append(body["stringData"]["secretkey"])
        return self.secret


async def looked(server: Server, times: int = 3) -> None:
    end = server.looks + times
    while server.looks < end:  # noqa: ASYNC110 (a turn of the loop at a time)
        await asyncio.sleep(0)


def test_it_is_made_again_while_its_deployment_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberlist, "PERIOD", 0.0)

    async def body() -> None:
        server = Server()
        task = asyncio.create_task(memberlist.keep(server, "ns", "memberlist", "controller"))
        await looked(server)
        assert len(server.keys) == 1, "once"
        assert server.secret is not None
        assert server.secret["metadata"]["ownerReferences"][0]["uid"] == "uid"
        server.secret, server.deployment = None, "new"  # collected with the Deployment that was replaced
        await looked(server)
        assert len(set(server.keys)) == 2
        assert server.secret["metadata"]["ownerReferences"][0]["uid"] == "new"
        server.secret = server.deployment = None  # uninstalled
        await looked(server)
        assert server.secret is None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(body())


def test_a_server_that_has_it_and_does_not_list_it_is_not_asked_without_end() -> None:
    """A list that is behind: between two tries there is a wait, as after every trouble."""

    class Behind(Server):
        async def request(self, method: str, path: str, *, body: Any = None, **more: Any) -> dict[str, Any]:  # type: ignore[override]
            if method == "POST":
                raise ApiError(409, "AlreadyExists")
            return await super().request(method, path, body=body, **more)

    async def body() -> None:
        server = Behind()
        task = asyncio.create_task(memberlist.keep(server, "ns", "memberlist", "controller"))
        await asyncio.sleep(0.5)
        assert not task.done()
        assert 1 <= server.looks < 20
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(body())
