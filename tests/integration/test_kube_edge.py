"""The Kubernetes edge against a real API server: paging, watching, credentials, events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metallb_common.kube.client import Api, connect
from metallb_common.kube.errors import ApiError
from metallb_common.kube.events import BURST, EventRecorder, ObjectRef
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, EVENTS, NODES
from tests.apiserver import ADMIN, ApiServer
from tests.controller_lab import Lab, lab

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with lab() as made:
        yield made.server


class Names:
    """A sink that keeps names and how it was told."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.replaced = 0

    def replace(self, objects: list[str]) -> None:
        self.names, self.replaced = set(objects), self.replaced + 1

    def upsert(self, obj: str) -> None:
        self.names.add(obj)

    def delete(self, obj: str) -> None:
        self.names.discard(obj)


def name_of(obj: Any) -> str:
    name = str(obj["metadata"]["name"])
    if name == "unreadable":
        raise KeyError("field")
    return name


async def until(what: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def run(server: ApiServer, body: Any, **how: Any) -> None:
    async def all_of_it() -> None:
        api = await connect(server.kubeconfig(**how))
        try:
            await body(api)
        finally:
            await api.close()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("certificate", [False, True])
def test_a_set_is_listed_in_pages_and_then_followed(server: ApiServer, certificate: bool) -> None:
    many = {f"m{int(certificate)}-{i}" for i in range(620)}

    async def body(api: Api) -> None:
        async def create(name: str) -> None:
            await api.request(
                "POST", CONFIG_MAPS.path("default"), body={"metadata": {"name": name, "labels": {"t": "x"}}}
            )

        await asyncio.gather(*(create(name) for name in many))
        sink = Names()
        watch = ListWatch(api, CONFIG_MAPS, name_of, sink, namespace="default", label_selector="t=x")
        task = asyncio.create_task(watch.run())
        await asyncio.wait_for(watch.synced.wait(), 20)
        assert sink.names == many
        await create("later")
        await create("unreadable")
        await until(lambda: "later" in sink.names)
        await api.request("DELETE", CONFIG_MAPS.path("default", "later"))
        await until(lambda: "later" not in sink.names)
        assert sink.replaced == watch.lists == 1
        assert "unreadable" not in sink.names
        task.cancel()
        await asyncio.wait([task])
        await api.request("DELETE", CONFIG_MAPS.path("default"), query={"labelSelector": "t=x"})

    run(server, body, certificate=certificate)


def test_a_lack_of_rights_is_told_once_and_heals(server: ApiServer) -> None:
    token = server.service_account_token("default", "nobody")
    denied: list[ApiError] = []

    async def body(api: Api) -> None:
        watch = ListWatch(api, NODES, name_of, Names(), on_denied=denied.append)
        watch_task = asyncio.create_task(watch.run())
        await until(lambda: denied)
        assert denied[0].status == 403
        assert not watch.synced.is_set()
        watch_task.cancel()
        await asyncio.wait([watch_task])
        with pytest.raises(ApiError) as told:
            await api.request("GET", NODES.path())
        assert told.value.denied

    run(server, body, token=token)


def test_a_pod_reads_its_token_anew(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    (tmp_path / "ca.crt").write_bytes((server.folder / "ca.crt").read_bytes())
    (tmp_path / "token").write_text("stale")

    async def body() -> None:
        api = await connect(folder=str(tmp_path))
        with pytest.raises(ApiError) as told:
            await api.request("GET", "/api/v1/namespaces/default")
        assert told.value.status == 401
        (tmp_path / "token").write_text(ADMIN + "\n")
        found = await api.request("GET", "/api/v1/namespaces/default")
        assert found["metadata"]["name"] == "default"
        await api.close()

    asyncio.run(body())


def test_no_credentials_and_no_server_are_errors_that_say_so(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        with pytest.raises(ApiError, match="kubeconfig"):
            await connect(str(tmp_path / "none"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
        with pytest.raises(ApiError, match="token"):
            await connect(folder=str(tmp_path))
        (tmp_path / "ca.crt").write_bytes((server.folder / "ca.crt").read_bytes())
        (tmp_path / "token").write_text(ADMIN)
        api = await connect(folder=str(tmp_path))
        with pytest.raises(ApiError) as told:
            await api.request("GET", "/version", timeout=2)
        assert (told.value.status, told.value.transient) == (0, True)
        await api.close()

    asyncio.run(body())


def test_a_server_that_hangs_costs_one_timeout(server: ApiServer) -> None:
    async def body(api: Api) -> None:
        await api.request("GET", "/version")
        server.pause_api()
        try:
            start = time.monotonic()
            with pytest.raises(ApiError, match=r"no answer in 0\.5 s"):
                await api.request("GET", "/version", timeout=0.5)
            assert time.monotonic() - start < 3
        finally:
            server.resume_api()

    run(server, body)


def test_equal_events_are_one_object_with_a_count_and_floods_are_cut(server: ApiServer) -> None:
    Lab(server)

    async def body(api: Api) -> None:
        recorder = EventRecorder(api, "metallb-test", host="here")
        ref = ObjectRef("Service", "noisy", "default", "u1")
        for _ in range(50):
            recorder.emit(ref, "Normal", "Same", "again")
        for i in range(100):
            recorder.emit(ref, "Warning", "Other", f"number {i}")
        recorder.emit(ObjectRef("Node", "n1", uid="u2"), "Normal", "Elsewhere", "x" * 3000)
        await recorder.close(20)
        items = (await api.request("GET", EVENTS.path("default")))["items"]
        mine = [e for e in items if e["source"].get("component") == "metallb-test"]
        noisy = [e for e in mine if e["involvedObject"]["name"] == "noisy"]
        assert len(noisy) == BURST
        assert [e["count"] for e in noisy if e["reason"] == "Same"] == [50]
        assert recorder.dropped == 101 - BURST
        (node,) = [e for e in mine if e["involvedObject"]["kind"] == "Node"]
        assert len(node["message"]) == 1024
        assert node["source"]["host"] == "here"
        assert await recorder.deliver(ObjectRef("Service", "quiet", "default", "u3"), "Normal", "R", "m")
        assert await recorder.deliver(ObjectRef("Service", "quiet", "default", "u3"), "Normal", "R", "m")
        items = (await api.request("GET", EVENTS.path("default")))["items"]
        assert [e["count"] for e in items if e["involvedObject"]["name"] == "quiet"] == [2]

    run(server, body)


def test_events_without_the_right_to_write_them_are_dropped_quietly(
    server: ApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    token = server.service_account_token("default", "nobody")

    async def body(api: Api) -> None:
        recorder = EventRecorder(api, "metallb-test")
        for i in range(5):
            recorder.emit(ObjectRef("Service", f"s{i}", "default"), "Normal", "R", "m")
        await recorder.close(10)
        assert not await recorder.deliver(ObjectRef("Service", "t", "default"), "Normal", "R", "m")
        assert recorder.dropped == 6

    run(server, body, token=token)
    assert capfd.readouterr().out.count("not allowed to write Events") == 1
