"""Which nodes have stopped renewing their Lease, for as long as speakers do not hear each other.

A kubelet renews its Lease in `kube-node-lease` every ten seconds; Kubernetes calls the node NotReady 40 to 50 seconds
after the last time. Here STALE seconds are enough, because all that follows is who announces. The Leases are asked for
only while the announcer says that membership does not work, at a pace that falls with the number of nodes.

No clock of another machine is trusted: a Lease counts as renewed when its text is another one than before, and its
age is the time since then less that of the Lease which was renewed last. So while the API server is down, when
nobody renews anything, nobody grows stale.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from metallb_common.kube.client import Api
from metallb_common.kube.errors import ApiError
from metallb_common.kube.resources import LEASES
from metallb_common.kube.views import Json
from metallb_common.obs import logs
from metallb_speaker.cluster.view import Changes, ClusterView

NAMESPACE = "kube-node-lease"
#: Two renewals missed, and half of the third.
STALE = 25.0
#: When no Lease at all was renewed for this long, it was the API server, or our way to it.
OUTAGE = 15.0
#: Seconds between two lists, at least, and per node: beyond some hundreds of nodes the node's condition is as fast.
PERIOD, PERIOD_PER_NODE = 5.0, 0.1


class Renewals:
    """When each Lease was last seen to change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}
        self._newest = 0.0
        self._stale: frozenset[str] = frozenset()

    def note(self, renewed: Mapping[str, str], now: float) -> frozenset[str]:
        """What a list said (node -> its renewTime, as text); gives the nodes that are stale."""
        self._seen = {
            name: held if (held := self._seen.get(name)) and held[0] == text else (text, now)
            for name, text in renewed.items()
        }
        newest = max((at for _, at in self._seen.values()), default=now)
        if newest - self._newest > OUTAGE:
            # Nobody could renew until now: those that are not dead already have as long as at the beginning.
            self._seen |= {n: (text, now) for n, (text, _) in self._seen.items() if n not in self._stale}
        self._newest = newest
        self._stale = frozenset(name for name, (_, at) in self._seen.items() if newest - at > STALE)
        return self._stale


class LeaseFollower:
    """Keeps `ClusterView.stale` while `need(True)` holds, and while a node that is Ready still is stale."""

    def __init__(
        self, api: Api, view: ClusterView, changes: Changes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._view, self._changes, self._clock = api, view, changes, clock
        self._needed = asyncio.Event()
        self._wanted = False

    def need(self, needed: bool) -> None:
        """Whether membership fails to say who is alive."""
        self._wanted = needed
        if needed:
            self._needed.set()
        else:
            self._rest()

    def _rest(self) -> None:
        """Ask no more, unless somebody is dead by its Lease alone: nobody may be missed just because we said so."""
        nodes = self._view.nodes
        if self._wanted or any(name in nodes and nodes[name].ready for name in self._view.stale):
            return
        self._needed.clear()
        self._tell(frozenset())

    async def run(self) -> None:
        """For ever, or until the API server does not allow it."""
        while True:
            await self._needed.wait()
            renewals = Renewals()
            while self._needed.is_set():
                try:
                    found = await self._api.request("GET", LEASES.path(NAMESPACE), query={"resourceVersion": "0"})
                except ApiError as error:
                    if error.status in (401, 403, 404):
                        logs.info(
                            op="leases", msg="node leases are not to be had: a dead node is noticed by its condition"
                        )
                        await asyncio.Event().wait()
                else:
                    if self._needed.is_set():
                        self._tell(renewals.note(_read(found), self._clock()))
                        self._rest()
                await asyncio.sleep(max(PERIOD, PERIOD_PER_NODE * len(self._view.nodes)))

    def _tell(self, stale: frozenset[str]) -> None:
        if stale != self._view.stale:
            logs.info(op="leases", msg="nodes whose lease is not renewed", nodes=sorted(stale))
            self._view.stale = stale
            self._changes.all()


def _read(found: Json) -> dict[str, str]:
    return {
        item["metadata"]["name"]: str((item.get("spec") or {}).get("renewTime") or "")
        for item in found.get("items") or ()
    }
