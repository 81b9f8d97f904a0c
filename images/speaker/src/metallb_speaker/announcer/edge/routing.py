"""BGP's and BFD's sockets as one edge, for `announcer.routing`."""

from __future__ import annotations

from collections.abc import Mapping

from metallb_speaker.announcer.bgp.speaker import BgpSpeaker
from metallb_speaker.announcer.edge.addresses import NextHops
from metallb_speaker.announcer.edge.bfd import BfdEdge
from metallb_speaker.announcer.edge.bgp import BgpEdge
from metallb_speaker.announcer.layer2.api import Unwatch, Watch


class RoutingEdge:
    """Sockets for one `BgpSpeaker`; BFD's are watched at their own priority."""

    def __init__(self, machine: BgpSpeaker, watch_bgp: Watch, watch_bfd: Watch, unwatch: Unwatch) -> None:
        self._bgp = BgpEdge(machine, watch_bgp, unwatch, next_hops=NextHops())
        self._bfd = BfdEdge(machine, watch_bfd, unwatch)

    def act(self, now: float) -> None:
        """Send what is pending: BFD first, its timers are the tightest."""
        self._bfd.follow(now)
        self._bgp.act(now)

    def listen_for(self, peers: Mapping[str, str]) -> None:
        self._bgp.listen_for(peers)

    def problems(self) -> Mapping[str, str]:
        out = {f"IPv{version}": text for version, text in self._bgp.listen_errors.items()}
        return {**out, **self._bgp.key_errors, **self._bfd.errors}

    def close(self) -> None:
        self._bgp.close()
        self._bfd.close()
