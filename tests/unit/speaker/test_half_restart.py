"""The cluster half is restarted beside an announcer that goes on: what that one is told, and that nothing flaps."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from metallb_common import app
from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_speaker import stream
from metallb_speaker.cluster.run import Cluster
from metallb_speaker.cluster.secrets import SOON
from metallb_speaker.desired import BgpPeer
from metallb_speaker.flags import FLAGS
from tests.unit.decide_lab import node, pod

CONFIG = """
peers:
- {my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.2, password-secret: {name: bgp}}
- {my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.3}
"""


class Secrets(Api):
    """Gives the one Secret, or the error."""

    def __init__(self, error: ApiError | None = None) -> None:
        self.error = error
        self.asked = 0

    async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return {"data": {"password": base64.b64encode(b"hush").decode()}}


class Beside:
    """An announcer's end of the stream, with the peers that it has been told of."""

    def __init__(self) -> None:
        self.reader = stream.DesiredReader()
        self.peers: dict[str, BgpPeer] = {}
        self.gone: list[str] = []

    def start(self, api: Api, config: str = CONFIG) -> Cluster:
        half = Cluster(api, app.parse(["--node-name=n1", "--namespace=ns", "--ml-labels=a=b"], FLAGS, {}), "/nowhere/s")
        half._config.upsert({"data": {"config": config}})
        half._view.nodes, half._view.speakers = {"n1": node("n1")}, {"n1": pod("n1")}
        for watch in (*half._watches.values(), half._slices):
            watch.synced.set()
        half._pods.synced.set()
        half._writer.again()
        self.reader.connected()
        self._take(stream.hello("x"))
        return half

    def follow(self, half: Cluster) -> None:
        assert half._settle()
        self._take(b"".join(half._writer.take()))

    def _take(self, frames: bytes) -> None:
        for event in self.reader.receive(frames):
            if isinstance(event, stream.Change):
                self.peers |= {item.key: item for item in event.put if isinstance(item, BgpPeer)}
                for kind, key in event.drop:
                    if kind == "BgpPeer":
                        self.gone.append(key)
                        del self.peers[key]


def run(half: Cluster, beside: Beside) -> None:
    """The first settling, one round over the Secrets, and the second settling."""

    async def body() -> None:
        beside.follow(half)
        await half._passwords.read()
        beside.follow(half)

    asyncio.run(body())


def test_sessions_with_a_password_from_a_secret_notice_nothing() -> None:
    beside = Beside()
    run(beside.start(Secrets()), beside)
    assert [p.password for p in beside.peers.values()] == ["", "hush"]
    again = beside.start(Secrets())
    run(again, beside)
    assert beside.gone == []
    assert [p.password for p in beside.peers.values()] == ["", "hush"]
    assert again._writer.kinds is None, "the next snapshot speaks of peers, too"


def test_they_stay_while_the_api_server_does_not_answer() -> None:
    beside = Beside()
    run(beside.start(Secrets()), beside)
    busy = Secrets(ApiError(503, "NotReady"))
    again = beside.start(busy)
    run(again, beside)
    assert beside.gone == []
    assert again._state().problems == ("peer 192.0.2.2: the Secret 'bgp' has not been read yet",)
    assert again._passwords._period() == SOON
    busy.error = None
    run(again, beside)
    assert beside.gone == []
    assert again._state().problems == ()


@pytest.mark.parametrize("error", [ApiError(404, "NotFound"), ApiError(403, "Forbidden")])
def test_they_go_when_the_secret_is_known_to_be_gone(error: ApiError) -> None:
    beside = Beside()
    run(beside.start(Secrets()), beside)
    run(beside.start(Secrets(error)), beside)
    assert beside.gone == ["192.0.2.2 179"]


def test_peers_that_were_removed_meanwhile_go_when_the_secrets_are_read() -> None:
    beside = Beside()
    run(beside.start(Secrets()), beside)
    run(
        beside.start(Secrets(), CONFIG.replace("- {my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.3}", "")),
        beside,
    )
    assert beside.gone == ["192.0.2.3 179"]
