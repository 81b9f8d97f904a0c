"""Two neighbours with a session, and routes for them."""

from __future__ import annotations

import ipaddress

from metallb_speaker.announcer.bgp.fsm import State
from metallb_speaker.announcer.bgp.rib import RouteAttributes
from metallb_speaker.announcer.bgp.wire.prefix import Network, Prefix, prefix_of

from .pair import Pair


def net(text: str) -> Network:
    return ipaddress.ip_network(text)


def routes(*texts: str, **attributes: object) -> dict[Prefix, RouteAttributes]:
    return {prefix_of(net(t)): RouteAttributes(**attributes) for t in texts}  # type: ignore[arg-type]


def established(**kw: bool) -> Pair:
    pair = Pair.make(**kw)
    pair.a.start(0)
    pair.settle()
    assert pair.a.state is State.ESTABLISHED
    assert pair.b.state is State.ESTABLISHED
    return pair
