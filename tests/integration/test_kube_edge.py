"""The Kubernetes edge against a real API server: paging, watching, credentials, events."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metallb_common.kube import client, listwatch
from metallb_common.kube.client import Api, connect
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.events import BURST, EventRecorder, ObjectRef
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import CONFIG_MAPS, EVENTS, NODES, SERVICES
from tests.apiserver import ADMIN, ApiServer
from tests.controller_lab import Lab, lab, wait
from tests.etcd_gate import EtcdGate

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


async def until(what: Any, seconds: float = 60.0) -> None:
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
        await asyncio.wait_for(watch.synced.wait(), 60)
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
    rbac = "/apis/rbac.authorization.k8s.io/v1"

    def grant() -> None:
        rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}]
        server.create(f"{rbac}/clusterroles", {"metadata": {"name": "granted-late"}, "rules": rules})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "granted-late"}
        subject = {"kind": "ServiceAccount", "name": "nobody", "namespace": "default"}
        bound = {"metadata": {"name": "granted-late"}, "subjects": [subject], "roleRef": role}
        server.create(f"{rbac}/clusterrolebindings", bound)

    async def body(api: Api) -> None:
        watch = ListWatch(api, NODES, name_of, Names(), on_denied=denied.append)
        watch_task = asyncio.create_task(watch.run())
        await until(lambda: denied)
        assert denied[0].status == 403
        assert not watch.synced.is_set()
        with pytest.raises(ApiError) as told:
            await api.request("GET", NODES.path())
        assert told.value.denied
        await asyncio.to_thread(grant)
        await asyncio.wait_for(watch.synced.wait(), 60)
        watch_task.cancel()
        await asyncio.wait([watch_task])

    try:
        run(server, body, token=token)
    finally:
        for kind in ("clusterrolebindings", "clusterroles"):
            with contextlib.suppress(OSError):
                server.delete(f"{rbac}/{kind}/granted-late")
    assert len(denied) == 1


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
            assert time.monotonic() - start < 10
        finally:
            server.resume_api()

    run(server, body)


Answer = Callable[[str], tuple[int, bytes]]


@contextlib.asynccontextmanager
async def pretended(tmp_path: Path, answers: Answer, port: int = 0) -> AsyncIterator[tuple[Api, int]]:
    """A server on loopback that answers as told ("watch" or "list"), and a client of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                status, body = answers("watch" if "watch=1" in head else "list")
                writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    port = server.sockets[0].getsockname()[1]
    config = tmp_path / "config"
    context = f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]"
    context += "\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c"
    config.write_text(f"apiVersion: v1\nkind: Config\n{context}\nusers: [{{name: u, user: {{}}}}]\n")
    api = await connect(str(config))
    try:
        yield api, port
    finally:
        await api.close()
        server.close()


EMPTY = b'{"metadata": {"resourceVersion": "7"}, "items": []}'


def test_a_server_that_ends_every_watch_at_once_is_not_flooded(tmp_path: Path) -> None:
    """What a proxy without support for long answers does."""
    asked: list[str] = []

    def answers(what: str) -> tuple[int, bytes]:
        asked.append(what)
        return 200, b"" if what == "watch" else EMPTY

    async def body() -> None:
        async with pretended(tmp_path, answers) as (api, _):
            watch = ListWatch(api, CONFIG_MAPS, name_of, Names())
            task = asyncio.create_task(watch.run())
            await until(lambda: asked.count("watch") >= 3)
            before, start = len(asked), time.monotonic()
            await asyncio.sleep(1.0)
            assert len(asked) - before < 20 * (time.monotonic() - start)  # without the wait: a thousand and more
            assert asked.count("list") == watch.lists == 1
            task.cancel()

    asyncio.run(body())


@pytest.mark.parametrize("for_ever", [False, True])
def test_a_server_that_has_lost_its_history_is_listed_at_once_but_not_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_ever: bool
) -> None:
    """As after a restart: refused for a while, and then too old a version. The waits of before are not waited on."""
    asked: list[str] = []
    waits: list[float] = []

    def answers(what: str) -> tuple[int, bytes]:
        asked.append(what)
        if what == "list":
            return 200, EMPTY
        if asked.count("watch") <= 8:
            return 500, b"{}"
        return 410, b'{"kind": "Status", "reason": "Expired", "code": 410}'

    class Noted(Backoff):
        """The longest that it might wait, and no wait."""

        def next(self, at_least: float | None = None) -> float:
            waits.append(min(self._cap, self._first * 2.0**self._failures))
            super().next(at_least)
            return 0.0

    monkeypatch.setattr(listwatch, "Backoff", Noted)

    async def body() -> None:
        async with pretended(tmp_path, answers) as (api, _):
            watch = ListWatch(api, CONFIG_MAPS, name_of, Names())
            task = asyncio.create_task(watch.run())
            await until(lambda: watch.lists >= (6 if for_ever else 2))
            task.cancel()

    asyncio.run(body())
    assert waits[:8] == sorted(waits[:8]), "the trouble before"
    assert waits[7] == listwatch.RETRY_MOST
    assert waits[8] < 0.5, "it answers again"
    if for_ever:
        assert waits[9:13] == sorted(waits[9:13])
        assert waits[12] > 8 * waits[8], "it has nothing to be followed from: asked less and less often"


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
        await recorder.close(60)
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


def test_equal_events_that_come_while_one_is_being_sent_do_not_become_another_object(server: ApiServer) -> None:
    async def body(api: Api) -> None:
        recorder = EventRecorder(api, "metallb-test")
        sending = asyncio.create_task(recorder.run())
        ref = ObjectRef("Service", "quick", "default", "u9")
        for _ in range(200):
            recorder.emit(ref, "Normal", "Same", "again")
            await asyncio.sleep(0)
        await recorder.close(60)
        sending.cancel()
        await asyncio.wait([sending])
        items = (await api.request("GET", EVENTS.path("default")))["items"]
        assert len([e for e in items if e["involvedObject"]["name"] == "quick"]) == 1

    run(server, body)


def test_who_waits_for_a_server_is_woken_when_it_answers_somebody_else(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But only by one that could not be reached: elsewhere a wait is there to be waited."""

    class Long(Backoff):
        def next(self, at_least: float | None = None) -> float:
            super().next(at_least)
            return 600.0

    monkeypatch.setattr(listwatch, "Backoff", Long)

    async def body(api: Api) -> None:
        watches = [ListWatch(api, what, name_of, Names()) for what in (CONFIG_MAPS, SERVICES)]
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        for watch in watches:
            await asyncio.wait_for(watch.synced.wait(), 60)
        await asyncio.to_thread(server.stop_api)
        await until(lambda: all(watch._failing for watch in watches))
        await asyncio.sleep(1.0)  # nobody listens any more, and all wait
        await asyncio.to_thread(server.start_api)
        await asyncio.sleep(1.0)
        assert all(watch._failing for watch in watches), "nothing has told them yet"
        await api.request("GET", "/version")
        # The answer may be that their version is too old; that they asked is what counts here.
        asked = api.requests
        await until(lambda: api.requests >= asked + len(watches))
        start = time.monotonic()
        await api.request("GET", "/version")
        await asyncio.wait_for(api.rest(1.5), 30)
        assert time.monotonic() - start >= 1.5, "it was not away"
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(server, body)


def test_events_without_the_right_to_write_them_are_dropped_quietly(
    server: ApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    token = server.service_account_token("default", "nobody")

    async def body(api: Api) -> None:
        recorder = EventRecorder(api, "metallb-test")
        for i in range(5):
            recorder.emit(ObjectRef("Service", f"s{i}", "default"), "Normal", "R", "m")
        await recorder.close(60)
        assert not await recorder.deliver(ObjectRef("Service", "t", "default"), "Normal", "R", "m")
        assert recorder.dropped == 6

    run(server, body, token=token)
    assert capfd.readouterr().out.count("not allowed to write Events") == 1


def test_a_server_that_knows_no_roles_yet_refuses_nobody_for_good(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some moments after its start it answers 403 to whoever may: that is trouble, and no lack of rights."""
    monkeypatch.setattr(client, "DOUBT", 60.0)
    here = Lab(server)
    token = here.original_account()
    denied: list[ApiError] = []

    async def trust(error: ApiError) -> None:
        """What a client without this care does."""

    async def ask(api: Api) -> int:
        try:
            await api.request("GET", SERVICES.path(), query={"limit": "1"}, timeout=20)
            return 200
        except ApiError as error:
            return error.status

    async def body(api: Api) -> None:
        sink = Names()
        watch = ListWatch(api, SERVICES, name_of, sink, on_denied=denied.append)
        task = asyncio.create_task(watch.run())
        await asyncio.wait_for(watch.synced.wait(), 60)
        raw = await connect(server.kubeconfig(token))
        raw._believe = trust  # type: ignore[method-assign]
        await asyncio.to_thread(server.stop_api)
        with EtcdGate(server.etcd_port, b"/registry/clusterroles", b"/registry/clusterrolebindings") as gate:
            start = asyncio.create_task(asyncio.to_thread(server.start_api, etcd_port=gate.port))
            deadline, answers = time.monotonic() + 180, [0]
            while answers[-1] != 403:
                assert time.monotonic() < deadline, answers[-20:]
                await asyncio.sleep(0.01)
                answers.append(await ask(raw))
            for _ in range(20):  # far less than DOUBT: nobody may ask whether it is ready, either
                assert await ask(api) == 503
                assert await ask(raw) == 403
                await asyncio.sleep(0.02)
            assert watch._failing
            assert not start.done()
            gate.open()
            await start
            await until(lambda: not watch._failing)
            await asyncio.to_thread(here.create, "later")
            await until(lambda: "later" in sink.names)
            assert await ask(api) == await ask(raw) == 200
            task.cancel()
            await asyncio.wait([task])
            await asyncio.to_thread(server.stop_api)
        await asyncio.to_thread(server.start_api)
        await raw.close()

    try:
        run(server, body, token=token)
    finally:
        here.clear()
    assert not denied


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed something", "allowed nothing"])
def test_a_refusal_is_believed_in_the_end_where_nobody_may_ask_whether_the_server_is_ready(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """As in clusters without the role for it. Who is allowed something, knows that the server knows its roles."""
    monkeypatch.setattr(client, "DOUBT", 0.5)
    monkeypatch.setattr(client, "LONG_DOUBT", 600.0 if allowed else 1.5)
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    bindings = f"{rbac}/clusterrolebindings"
    kept = [server.get(f"{bindings}/{name}") for name in ("system:public-info-viewer", "system:discovery")]
    token = server.service_account_token("default", "nobody")
    for binding in kept:
        server.delete(f"{bindings}/{binding['metadata']['name']}")
    review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"  # by the role system:basic-user
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}

    def not_even_that() -> bool:
        """The server's own view of its roles has followed."""
        try:
            server.raw("GET", "/readyz", token=token)
        except urllib.error.HTTPError as error:
            return error.code == 403
        return False

    async def body(api: Api) -> None:
        seen: list[tuple[int, str]] = []
        start = time.monotonic()
        while not seen or seen[-1][0] != 403:
            assert time.monotonic() - start < 60, seen
            with pytest.raises(ApiError) as told:
                await api.request("GET", NODES.path())
            seen.append((told.value.status, told.value.reason))
            if allowed:
                await api.request("POST", review, body=asked)
            await asyncio.sleep(0.02)
        assert seen[0] == (503, "NotReady")
        assert time.monotonic() - start >= (0.5 if allowed else 1.5)
        with pytest.raises(ApiError) as told:
            await api.request("GET", NODES.path())
        assert told.value.denied

    try:
        wait(not_even_that)
        run(server, body, token=token)
    finally:
        for binding in kept:
            meta = {k: binding["metadata"].get(k) for k in ("name", "labels", "annotations")}
            server.create(bindings, {**binding, "metadata": meta})
