"""The speakers that the cluster knows: the membership's seeds, and the view that it falls back on. Pure."""

from __future__ import annotations

from metallb_speaker.cluster.view import ClusterView
from metallb_speaker.desired import Member


def members(view: ClusterView) -> list[Member]:
    """One per node with a speaker pod; while pods cannot be listed, one per node."""
    out = []
    if view.speakers is None:
        return [Member(name, node.internal_ips, node.ready) for name, node in sorted(view.nodes.items())]
    for name, pod in sorted(view.speakers.items()):
        node = view.nodes.get(name)
        own = node.internal_ips if node else ()
        addresses = tuple(dict.fromkeys(pod.addresses + own))
        out.append(Member(name, addresses, bool(node and node.ready and pod.ready and not pod.deleting)))
    return out
