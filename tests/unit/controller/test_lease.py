"""The Lease when it goes away, or the right to it: one leader at a time, and one term for each."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from metallb_common.kube.errors import ApiError
from metallb_controller.lease import DEADLINE, DURATION, POLL, RENEW, REQUEST, Lease
from tests.unit.controller.virtual import run

PATH = "/apis/coordination.k8s.io/v1/namespaces/n/leases/l"
OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "controller", "uid": "u"}


class Server:
    """One Lease, with the API server's rules: versions, and a uid that makes an update of nothing a conflict."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.denied = False
        self.gone_is = 409  # what an update of a Lease that is not there is answered with

    async def request(self, method: str, path: str, *, body: Any = None, timeout: float = 0) -> dict[str, Any]:  # noqa: ASYNC109
        await asyncio.sleep(0.01)
        assert path.startswith(PATH.removesuffix("/l"))
        if self.denied:
            raise ApiError(403, "Forbidden")
        if method == "POST":
            if self.lease is not None:
                raise ApiError(409, "AlreadyExists")
            return self._store(body)
        if self.lease is None:
            raise ApiError(404 if method == "GET" else self.gone_is, "NotFound")
        if method == "PUT":
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                raise ApiError(409, "Conflict")
            return self._store(body)
        return copy.deepcopy(self.lease)

    def _store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class Candidate:
    """One that wants the Lease, and what it was told."""

    def __init__(self, server: Server, name: str, owner: list[dict[str, str] | None] | None = None) -> None:
        async def ask() -> dict[str, str] | None:
            return owner[0] if owner else None

        self.lease = Lease(server, "n", "l", name, ask)  # type: ignore[arg-type]
        self.terms: list[tuple[str, float]] = []
        self.task = asyncio.create_task(self.lease.run(lambda: self._note("acquired"), lambda: self._note("lost")))

    def _note(self, what: str) -> None:
        assert [w for w, _ in self.terms[-1:]] != [what], "they alternate"
        self.terms.append((what, asyncio.get_running_loop().time()))

    @property
    def told(self) -> list[str]:
        return [what for what, _ in self.terms]


class Cut:
    """The same server for one that can be cut off from it."""

    def __init__(self, server: Server) -> None:
        self.server, self.off, self.unanswered = server, False, ""

    async def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        if self.off:
            await asyncio.sleep(REQUEST)
            raise ApiError(0, "Unreachable")
        answer = await self.server.request(method, path, **more)
        if method == self.unanswered:
            self.unanswered = ""
            raise ApiError(0, "Unreachable")
        return answer


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("others", [1, 2])
def test_a_lease_that_another_has_held_meanwhile_is_taken_for_a_new_term(others: int, deleted: bool) -> None:
    """Also when the other one has stopped in order, and the Lease is free: what it wrote is to be read first."""

    async def body() -> None:
        server = Server()
        cut = Cut(server)
        first = Candidate(cut, "first")  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        cut.off = True
        for i in range(others):
            if deleted:
                server.lease = None  # and with it the count of holders
            other = Candidate(server, f"other{i}")
            await asyncio.sleep(2 * DURATION)
            assert other.told == ["acquired"]
            other.task.cancel()
            await other.lease.release()
        assert not first.lease.valid()
        cut.off, back = False, asyncio.get_running_loop().time()
        for _ in range(400):
            assert not first.lease.valid() or first.told == ["acquired", "lost", "acquired"]
            await asyncio.sleep(0.01)
        assert first.told == ["acquired", "lost", "acquired"]
        # What is under way fails, the longest back-off, two looks and one wait between them.
        assert first.terms[-1][1] - back < REQUEST + 2.0 + 1.25 * POLL + 0.1, "it is free"
        assert first.lease.valid()

    run(body())


def test_one_of_the_same_name_that_led_meanwhile_ends_the_term_too() -> None:
    async def body() -> None:
        server = Server()
        cut = Cut(server)
        first = Candidate(cut, "first")  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        cut.off = True
        other = Candidate(server, "other")
        await asyncio.sleep(2 * DURATION)
        other.task.cancel()
        await other.lease.release()
        again = Candidate(server, "first")
        await asyncio.sleep(1.0)
        again.task.cancel()
        cut.off = False
        await asyncio.sleep(3.0)
        assert first.told[:2] == ["acquired", "lost"]

    run(body())


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_renewal_that_landed_without_an_answer_ends_no_term(method: str) -> None:
    async def body() -> None:
        server = Server()
        cut = Cut(server)
        before = Candidate(server, "before")
        await asyncio.sleep(1.0)
        before.task.cancel()
        await before.lease.release()
        first = Candidate(cut, "first")  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        if method == "POST":
            server.lease = None
        cut.unanswered = method
        for _ in range(50):
            await asyncio.sleep(0.1)
            assert first.lease.valid()
        assert not cut.unanswered
        assert first.told == ["acquired"]

    run(body())


@pytest.mark.parametrize("gone_is", [404, 409])
@pytest.mark.parametrize("at", [0.0, 0.2, 0.4, 0.6])
def test_a_lease_that_is_deleted_is_made_again_by_its_holder(gone_is: int, at: float) -> None:
    async def body() -> None:
        server = Server()
        server.gone_is = gone_is
        first = Candidate(server, "first")
        await asyncio.sleep(1.0)
        second = Candidate(server, "second")
        await asyncio.sleep(2.0 + at)
        server.lease = None
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert first.lease.valid()
        assert (first.told, second.told) == (["acquired"], [])
        assert not first.lease.without
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == "first"

    run(body())


def test_a_candidate_waits_until_the_holder_of_a_lease_that_is_gone_cannot_write_any_more() -> None:
    async def body() -> None:
        server = Server()
        first, second = Candidate(server, "first"), None
        await asyncio.sleep(1.0)
        second = Candidate(server, "second")
        await asyncio.sleep(1.0)
        first.task.cancel()  # it hangs, or is cut off
        server.lease, deleted = None, asyncio.get_running_loop().time()
        await asyncio.sleep(DURATION + 1.0)
        ((what, when),) = second.terms
        assert what == "acquired"
        assert when - deleted > DURATION
        assert when - first.lease._renewed > DURATION

    run(body())


def test_one_that_was_cut_off_for_long_does_not_make_it_again_at_once() -> None:
    """Another may have led meanwhile."""

    async def body() -> None:
        server = Server()
        one = Candidate(server, "one")
        await asyncio.sleep(1.0)
        server.denied = True
        await asyncio.sleep(60.0)
        server.lease, server.denied = None, False
        back = asyncio.get_running_loop().time()
        await asyncio.sleep(10.0)
        assert one.told == ["acquired", "lost", "acquired"]
        assert one.terms[2][1] - back > DURATION
        # And once more: what was counted the first time counts no longer.
        server.denied = True
        await asyncio.sleep(60.0)
        server.lease, server.denied = None, False
        back = asyncio.get_running_loop().time()
        await asyncio.sleep(10.0)
        assert one.told == ["acquired", "lost"] * 2 + ["acquired"]
        assert one.terms[4][1] - back > DURATION

    run(body())


def test_what_is_uninstalled_leaves_no_lease_behind() -> None:
    async def body() -> None:
        server, owner = Server(), [OWNER]
        one = Candidate(server, "one", owner)  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        assert server.lease is not None
        assert server.lease["metadata"]["ownerReferences"] == [OWNER]
        server.lease = None
        await asyncio.sleep(1.0)
        assert server.lease is not None, "the Deployment is there"
        assert server.lease["metadata"]["ownerReferences"] == [OWNER]
        owner[0] = None  # type: ignore[call-overload]
        server.lease = None
        await asyncio.sleep(RENEW + REQUEST)
        assert server.lease is None
        assert one.told == ["acquired", "lost"]
        await asyncio.sleep(2 * DURATION)
        assert one.told == ["acquired", "lost", "acquired"], "it goes on when nobody ends it"

    run(body())


def test_a_right_that_is_withdrawn_makes_nobody_lead_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The other one has lost it, too, and would do the same."""

    async def body() -> None:
        server = Server()
        first = Candidate(server, "first")
        await asyncio.sleep(1.0)
        second = Candidate(server, "second")
        await asyncio.sleep(1.0)
        server.denied = True
        await asyncio.sleep(DEADLINE + RENEW)
        for _ in range(100):
            await asyncio.sleep(0.5)
            assert not first.lease.valid()
            assert not second.lease.valid()
        assert [first.lease.without, second.lease.without] == [False, False]
        assert capsys.readouterr().out.count("nothing is written until it is back") == 2
        server.denied = False
        await asyncio.sleep(10.0)
        assert [first.lease.valid(), second.lease.valid()].count(True) == 1
        assert ["acquired"] in (first.told, second.told)

    run(body())


def test_who_was_never_allowed_leads_without_a_lease() -> None:
    async def body() -> None:
        server = Server()
        server.denied = True
        one = Candidate(server, "one")
        await asyncio.sleep(1.0)
        assert one.told == ["acquired"]
        assert one.lease.without
        assert one.lease.valid()
        assert one.task.done()

    run(body())
