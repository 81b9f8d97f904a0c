"""When node Leases are asked for: while speakers do not hear each other, and as long as the answer rests on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from metallb_common.kube.client import Api
from metallb_common.kube.views import Node
from metallb_speaker.cluster import leases
from metallb_speaker.cluster.leases import STALE, LeaseFollower
from metallb_speaker.cluster.view import Changes, ClusterView


class Lab:
    """Two nodes; n1 renews in each list, n2 as long as it `lives`. Each list takes ten seconds of the clock."""

    def __init__(self) -> None:
        self.now, self.lists, self.lives = 100.0, 0, True
        self._renewed = "0"
        self.view = ClusterView("n1")
        self.set_ready(n2=True)
        self.follower = LeaseFollower(cast("Api", self), self.view, Changes(), lambda: self.now)

    def set_ready(self, *, n2: bool) -> None:
        self.view.nodes = {name: Node(name, {}, name == "n1" or n2, False, False, ()) for name in ("n1", "n2")}

    async def request(self, *_: object, **__: object) -> dict[str, Any]:
        self.now += 10.0
        self.lists += 1
        if self.lives:
            self._renewed = str(self.now)
        times = {"n1": str(self.now), "n2": self._renewed}
        return {"items": [{"metadata": {"name": name}, "spec": {"renewTime": at}} for name, at in times.items()]}

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError

    async def quiet(self) -> bool:
        """Whether nobody asks any more."""
        await asyncio.sleep(0.01)
        before = self.lists
        await asyncio.sleep(0.05)
        return self.lists == before


def run(scenario: Callable[[Lab], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PERIOD", 0.001)
    monkeypatch.setattr(leases, "PERIOD_PER_NODE", 0.0)

    async def main() -> None:
        lab = Lab()
        task = asyncio.create_task(lab.follower.run())
        try:
            await scenario(lab)
        finally:
            task.cancel()

    asyncio.run(main())


def test_they_are_asked_for_while_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lab: Lab) -> None:
        assert await lab.quiet()
        lab.follower.need(True)
        await lab.until(lambda: lab.lists > 5)
        assert lab.view.stale == frozenset()
        lab.follower.need(False)
        assert await lab.quiet()

    run(scenario, monkeypatch)


def test_a_node_that_is_dead_by_its_lease_alone_does_not_come_to_life_when_nobody_else_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two nodes it was the only one that was not heard; as dead it is not missed any more."""

    async def scenario(lab: Lab) -> None:
        lab.follower.need(True)
        await lab.until(lambda: lab.lists > 2)
        lab.lives = False
        await lab.until(lambda: lab.view.stale == frozenset({"n2"}))
        lab.follower.need(False)
        for _ in range(int(2 * STALE / 10)):
            lists = lab.lists
            await lab.until(lambda: lab.lists > lists)  # noqa: B023
            assert lab.view.stale == frozenset({"n2"})
        lab.set_ready(n2=False)  # Kubernetes says so, too
        await lab.until(lambda: lab.view.stale == frozenset())
        assert await lab.quiet()

    run(scenario, monkeypatch)


def test_one_that_renews_again_is_alive_and_then_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(lab: Lab) -> None:
        lab.follower.need(True)
        await lab.until(lambda: lab.lists > 2)
        lab.lives = False
        await lab.until(lambda: bool(lab.view.stale))
        lab.follower.need(False)
        lab.lives = True
        await lab.until(lambda: not lab.view.stale)
        assert await lab.quiet()

    run(scenario, monkeypatch)
