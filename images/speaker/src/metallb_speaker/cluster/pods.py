"""Following the speaker pods: by a watch where that is allowed, else by listing now and then.

The original's role allows `list` alone.
"""

from __future__ import annotations

import asyncio

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_common.kube.listwatch import ListWatch
from metallb_common.kube.resources import PODS
from metallb_common.kube.views import Json
from metallb_common.obs import logs
from metallb_speaker.cluster.view import PodSink, SpeakerPod, read_pod

#: Seconds between lists, at least; and per pod, so that all speakers together ask about as often in any cluster.
PERIOD = 10.0
PERIOD_PER_POD = 0.2


def read_any_pod(obj: Json) -> SpeakerPod:
    """A pod that may be a speaker (no labels are known to choose by): on no node when it is none.

    Speakers are told their node's name through this variable, by the original's manifests, too.
    """
    containers = (obj.get("spec") or {}).get("containers") or ()
    names = {entry.get("name") for c in containers for entry in c.get("env") or ()}
    pod = read_pod(obj)
    if "METALLB_NODE_NAME" in names:
        return pod
    return SpeakerPod(pod.namespace, pod.name, "", (), False, pod.deleting)


class PodFollower:
    """Feeds the sink for ever. `synced` is set after the first list, or when there is none to be had."""

    def __init__(self, api: Api, namespace: str, labels: str, sink: PodSink) -> None:
        self._api, self._namespace, self._labels, self._sink = api, namespace, labels, sink
        self._parse = read_pod if labels else read_any_pod
        self.synced = asyncio.Event()
        self._denied = asyncio.Event()
        self._watch = ListWatch(
            api, PODS, self._parse, sink, namespace=namespace, label_selector=labels, on_denied=self._on_denied
        )

    def _on_denied(self, error: ApiError) -> None:
        if self._watch.synced.is_set():
            self._denied.set()
            return
        logs.warn(op="pods", msg="speaker pods cannot be listed: every node counts as running a speaker")
        self._sink.unknown()
        self.synced.set()

    async def run(self) -> None:
        watch = asyncio.create_task(self._watch.run())
        denied = asyncio.create_task(self._denied.wait())
        listed = asyncio.create_task(self._watch.synced.wait())
        try:
            await asyncio.wait([watch, listed], return_when=asyncio.FIRST_COMPLETED)
            self.synced.set()
            await asyncio.wait([watch, denied], return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                await watch
        finally:
            for task in (watch, denied, listed):
                task.cancel()
        logs.info(op="pods", msg="speaker pods may be listed, not watched: asking now and then")
        await self._poll()

    async def _poll(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(max(PERIOD, PERIOD_PER_POD * count))
            query = {"resourceVersion": "0"}  # from the server's cache
            if self._labels:
                query["labelSelector"] = self._labels
            try:
                found = await self._api.request("GET", PODS.path(self._namespace), query=query)
            except ApiError:
                continue  # what is known stays
            pods = [self._parse(obj) for obj in found.get("items") or ()]
            count = len(pods)
            self._sink.replace(pods)
