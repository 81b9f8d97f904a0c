"""The parts of the Kubernetes edge that need no server: lines, errors, waiting, paths, the Lease's holders."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_common.kube.client import LineSplitter
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import ENDPOINT_SLICES, LEASES, SERVICES
from metallb_controller.apply import WRITE_TIMEOUT
from metallb_controller.lease import DEADLINE, DURATION, RENEW, REQUEST, Lease, identity, surely_dead


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_lines_do_not_depend_on_how_bytes_arrive(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    got = [line for chunk in chunks for line in splitter.feed(chunk)]
    whole, _, _ = b"".join(chunks).rpartition(b"\n")
    assert got == [line for line in whole.split(b"\n") if line]


def test_a_line_without_end_is_refused() -> None:
    splitter = LineSplitter(limit=100)
    splitter.feed(b"x" * 90)
    with pytest.raises(ApiError, match="more than 100 bytes"):
        splitter.feed(b"x" * 20)


@pytest.mark.parametrize(
    ("status", "body", "header", "wait"),
    [
        (429, {}, "7", 7.0),
        (429, {"details": {"retryAfterSeconds": 3}}, None, 3.0),
        (503, {"details": {"retryAfterSeconds": "soon"}}, "Wed, 21 Oct 2026 07:28:00 GMT", None),
        (500, {"details": "odd"}, None, None),
        (500, {}, "-4", None),
    ],
)
def test_how_long_the_server_wants_us_to_wait(
    status: int, body: dict[str, object], header: str | None, wait: float | None
) -> None:
    error = ApiError.from_status(status, body, header)
    assert error.retry_after == wait
    assert error.transient


_CONNECT = """
import asyncio, os, sys
from metallb_common.kube.client import connect
before = dict(os.environ)
async def main():
    api = await connect(sys.argv[1])
    await api.close()
asyncio.run(main())
assert dict(os.environ) == before, "programs that a kubeconfig calls for a token need what the user set"
import aiohttp.connector
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509_ca"])
"""


@pytest.mark.parametrize("told", [{}, {"SSL_CERT_FILE": ssl.get_default_verify_paths().openssl_cafile}])
def test_the_systems_certificates_are_not_read_for_nothing(tmp_path: Path, told: dict[str, str]) -> None:
    config = tmp_path / "config"
    config.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " clusters: [{name: a, cluster: {server: 'https://localhost:1'}}], users: [{name: a, user: {token: x}}]}"
    )
    command = [sys.executable, "-c", _CONNECT, str(config)]
    ran = subprocess.run(command, env=dict(os.environ) | told, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n", "")


def test_a_terminating_namespace_is_no_lack_of_rights() -> None:
    body = {"reason": "Forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}
    assert not ApiError.from_status(403, body).denied
    assert ApiError.from_status(403, {"reason": "Forbidden"}).denied


def test_back_off_grows_is_capped_and_obeys_the_server() -> None:
    backoff = Backoff(1.0, 8.0)
    for ceiling in (1, 2, 4, 8, 8, 8):
        assert 0 < backoff.next() <= ceiling
    backoff.reset()
    assert backoff.next() <= 1
    assert 5.0 <= backoff.next(5.0) <= 6.0


def test_paths() -> None:
    assert SERVICES.path() == "/api/v1/services"
    assert SERVICES.path("ns", "web", "status") == "/api/v1/namespaces/ns/services/web/status"
    assert ENDPOINT_SLICES.path("ns") == "/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices"
    assert LEASES.path("a/b", "c") == "/apis/coordination.k8s.io/v1/namespaces/a%2Fb/leases/c"


def test_a_deposed_leader_cannot_write_into_its_successors_term() -> None:
    assert DEADLINE + WRITE_TIMEOUT < DURATION
    assert RENEW + REQUEST < DEADLINE, "one slow renewal must not cost the Lease"


def test_only_a_process_of_this_boot_and_namespace_can_be_known_dead() -> None:
    me = identity()
    host, where, pid, started = me.split("_")
    assert not surely_dead(me, me)
    assert surely_dead(f"{host}_{where}_{pid}_{int(started) - 1}", me), "the number was used again"
    assert surely_dead(f"{host}_{where}_4194303_5", me)
    assert not surely_dead(f"other_{where}_4194303_5", me)
    assert not surely_dead(f"{host}_elsewhere_4194303_5", me)
    assert not surely_dead("metallb-controller-7d9f_4194303", me)
    assert not surely_dead("", me)
    assert int(pid) == os.getpid()


class Bookmarked:
    """An API whose watch brings a bookmark and ends; a server sends one a minute, and a test has no minute."""

    def __init__(self) -> None:
        self.watched: list[dict[str, str]] = []

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": "10"}, "items": []}

    async def stream(self, path: str, query: dict[str, str], *, idle: float) -> AsyncIterator[bytes]:
        self.watched.append(query)
        if len(self.watched) > 1:
            await asyncio.sleep(3600)
        yield b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}}'


def test_a_watch_goes_on_where_the_last_bookmark_was() -> None:
    """Else a quiet resource is listed anew after every compaction."""

    class Nobody:
        def replace(self, objects: list[object]) -> None: ...

        def upsert(self, obj: object) -> None:
            raise AssertionError("a bookmark is no object")

        def delete(self, obj: object) -> None: ...

    async def body() -> None:
        api = Bookmarked()
        watch = ListWatch(api, SERVICES, dict, Nobody())  # type: ignore[arg-type]
        task = asyncio.create_task(watch.run())
        while len(api.watched) < 2:  # noqa: ASYNC110 (the other end is not ours to change)
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert [query["resourceVersion"] for query in api.watched] == ["10", "50"]
        assert all(query["allowWatchBookmarks"] == "true" for query in api.watched)
        assert watch.lists == 1

    asyncio.run(body())


def test_no_write_begins_when_the_last_renewal_is_too_long_ago() -> None:
    async def body() -> None:
        lease = Lease(None, "n", "l", me="me")  # type: ignore[arg-type]
        now = asyncio.get_running_loop().time()
        for held, without, age, valid in (
            (True, False, DEADLINE - 0.5, True),
            (True, False, DEADLINE + 0.001, False),
            (False, False, 0.0, False),
            (True, True, 1000.0, True),  # no access to Leases: there is nothing to renew
            (False, True, 0.0, False),
        ):
            lease.held, lease.without, lease._renewed = held, without, now - age
            assert lease.valid() is valid, (held, without, age)

    asyncio.run(body())
