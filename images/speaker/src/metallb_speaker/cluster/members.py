"""The speakers that the cluster knows: the membership's seeds, and the view that it falls back on. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from metallb_common.config.addresses import Refusal, parse_address
from metallb_speaker.cluster.view import ClusterView
from metallb_speaker.desired import Member


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are addresses, each once, as sockets write them.

    The API server takes any text for a node's InternalIP, a host name too; the announcer asks the wire for these.
    """
    found: dict[str, None] = {}
    for text in texts:
        with suppress(Refusal):
            found[str(parse_address(text))] = None
    return tuple(found)


def members(view: ClusterView) -> list[Member]:
    """One per node with a speaker pod; while pods cannot be listed, one per node."""
    out = []
    if view.speakers is None:
        return [
            Member(name, _addresses(node.internal_ips), node.ready and name not in view.stale)
            for name, node in sorted(view.nodes.items())
        ]
    for name, pod in sorted(view.speakers.items()):
        node = view.nodes.get(name)
        own = node.internal_ips if node else ()
        addresses = _addresses(pod.addresses + own)
        out.append(
            Member(
                name, addresses, bool(node and node.ready and name not in view.stale and pod.ready and not pod.deleting)
            )
        )
    return out
