"""Which nodes may announce: pure. The hard rules and the soft ones of contract section 9.

A hard rule takes a node out. A soft rule (NotReady, NetworkUnavailable, until just now, cordoned) only puts it behind
the others: it is dropped where it would leave nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from metallb_common.kube.views import Node
from metallb_speaker.cluster.steady import well
from metallb_speaker.cluster.view import ClusterView

#: Set by kubeadm on control-plane nodes; honoured only when asked for.
EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"


@dataclass(frozen=True, slots=True)
class Tiers:
    """Names of nodes, sorted. `fallback` is for when no candidate is alive, `last` for when none of these is, either.

    `soft` names a dropped soft rule.
    """

    candidates: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    soft: str = ""


NOBODY = Tiers()


def speaker_nodes(view: ClusterView, *, lingering: bool = False) -> list[str]:
    """Nodes that exist, run a speaker (or may: pods unknown), and are not excluded by label.

    `lingering`: those, too, that ran one until just now.
    """
    return [
        name
        for name, node in sorted(view.nodes.items())
        if (view.speakers is None or name in view.speakers or (lingering and name in view.steady.lingering))
        and (view.ignore_exclude_label or EXCLUDE_LABEL not in node.labels)
    ]


def tiers(
    names: Iterable[str], nodes: Mapping[str, Node], *, mind_cordon: bool, returning: Collection[str] = ()
) -> Tiers:
    """The nodes that come first, and those behind them; `returning`: those that were not Ready until just now.

    `mind_cordon` False: under externalTrafficPolicy Local a cordoned node stays as good as the others,
    since its endpoints are there.
    """
    levels: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in sorted(names):
        node = nodes[name]
        # One that has just come back is as before: else the first of all that were NotReady would get everything.
        if not well(node) or name in returning:
            levels[2].append(name)
        elif node.unschedulable and mind_cordon:
            levels[1].append(name)
        else:
            levels[0].append(name)
    found = [tuple(level) for level in levels if level]
    if not found:
        return NOBODY
    soft = "" if levels[0] else "all candidate nodes are cordoned" if levels[1] else "no candidate node is Ready"
    first, second, third = (*found, (), ())[:3]
    return Tiers(first, second, third, soft)
