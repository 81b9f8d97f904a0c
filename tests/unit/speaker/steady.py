"""A cluster in virtual time that has settled, and what is asked of its history."""

from __future__ import annotations

from metallb_speaker.announcer.elect import rank
from metallb_speaker.announcer.membership import events as m
from metallb_speaker.announcer.ownership import events as o
from tests.unit.speaker.simulator import Cluster, group

#: What a power-off may cost at default settings, in a small cluster: the target is one second on the wire.
DETECTION = 0.80
ADDRESSES = [f"192.0.2.{n}" for n in range(1, 31)]


def steady(size: int, *, seed: int = 1, loss: float = 0.0, addresses: list[str] | None = None) -> Cluster:
    """A cluster that has settled, with the history forgotten."""
    cluster = Cluster(size, seed=seed, loss=loss)
    cluster.groups = [group(ip, cluster.nodes) for ip in addresses or ADDRESSES]
    cluster.start()
    cluster.run(12.5)
    assert cluster.agreed()
    assert owners(cluster) == elected(cluster, cluster.nodes)
    cluster.forget_history()
    return cluster


def blocked() -> Cluster:
    """Three nodes that begin, and whose membership ports do not reach each other."""
    cluster = Cluster(3)
    cluster.groups = [group(ip, cluster.nodes) for ip in ADDRESSES]
    for node in cluster.nodes.values():
        node.silenced = True
    cluster.start()
    return cluster


def owners(cluster: Cluster) -> dict[str, list[str]]:
    return {item.key: cluster.answering(item.key) for item in cluster.groups}


def elected(cluster: Cluster, alive: object) -> dict[str, list[str]]:
    """By the rule itself, over `alive`."""
    return {item.key: [rank([n for n in item.candidates if n in alive], item.key)[0]] for item in cluster.groups}  # type: ignore[operator]


def moves(cluster: Cluster) -> set[str]:
    return {e.key for node in cluster.nodes.values() for _, e in node.happened if isinstance(e, o.Acquired)}


def happened(cluster: Cluster, kind: type, *names: str) -> list[tuple[float, str, o.Event | m.Event]]:
    return [
        (when, node.name, event)
        for node in cluster.nodes.values()
        if not names or node.name in names
        for when, event in [*node.happened, *node.heard]
        if isinstance(event, kind)
    ]


def tell_members(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        cluster.list_members(node)
        cluster.turn(node)
