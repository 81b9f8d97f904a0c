"""What one neighbour gets for one prefix, of all the routes that want it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from metallb_speaker.desired import BgpRoute

from .rib import RouteAttributes

#: Communities of one route at most: 300 large ones, of 12 octets each, fit into a message of 4,096 octets (RFC 4271
#: section 4.1) with all else that belongs to the route. The configuration's bound for the advertisements of one pool
#: is the same; but pools may share an aggregate.
MAX_COMMUNITIES = 300


@lru_cache(maxsize=1024)
def _attributes(local_pref: int, communities: frozenset[tuple[int, ...]]) -> RouteAttributes:
    """One object for equal attributes: routes that share them are told apart from others at no cost."""
    # Well-known communities come first: to leave out no-export would let a route go where it must not.
    kept = sorted(communities, key=lambda c: (len(c), c[0] != 0xFFFF, c))[:MAX_COMMUNITIES]
    plain = sorted((c[0], c[1]) for c in kept if len(c) == 2)
    large = sorted((c[0], c[1], c[2]) for c in kept if len(c) == 3)
    return RouteAttributes(local_pref, tuple(plain), tuple(large), len(communities) - len(kept))


def merge(peer: str, routes: Iterable[BgpRoute]) -> RouteAttributes | None:
    """What one neighbour should get for one prefix: all communities that a message has room for, the highest local
    preference; None: nothing."""
    mine = [route for route in routes if not route.peers or peer in route.peers]
    if not mine:
        return None
    if len(mine) == 1:
        return _attributes(mine[0].localpref, frozenset(mine[0].communities))
    communities = frozenset(c for route in mine for c in route.communities)
    return _attributes(max(route.localpref for route in mine), communities)
