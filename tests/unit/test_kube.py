"""The parts of the Kubernetes edge that need no server: lines, errors, waiting, paths, the Lease's holders."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_common.kube.client import LineSplitter
from metallb_common.kube.errors import ApiError, Backoff
from metallb_common.kube.resources import ENDPOINT_SLICES, LEASES, SERVICES
from metallb_controller.apply import WRITE_TIMEOUT
from metallb_controller.lease import DEADLINE, DURATION, RENEW, REQUEST, identity, surely_dead


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
