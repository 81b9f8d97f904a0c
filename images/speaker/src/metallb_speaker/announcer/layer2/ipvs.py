"""kube-proxy in IPVS mode without strictARP: the judgement alone, from what the edge has read.

In that mode every node holds every Service address on the interface kube-ipvs0, and Linux answers ARP for
any address of the host on any interface, unless `arp_ignore` is at least 1. So all nodes answer for an
address that one of them announces. strictARP makes kube-proxy set arp_ignore 1 and arp_announce 2.
IPv6 is not concerned: neighbor discovery answers only for addresses of the interface itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

#: The interface that kube-proxy makes in IPVS mode.
INTERFACE: Final = "kube-ipvs0"
FIX: Final = (
    "set ipvs.strictARP: true in kube-proxy's configuration (kubectl edit configmap -n kube-system kube-proxy) "
    "and restart kube-proxy"
)


def judge(interfaces: Collection[str], used: Collection[str], arp_ignore: Mapping[str, int]) -> str:
    """The warning, or "" if there is nothing to warn of.

    `interfaces` are the names of all, `used` of those that addresses are announced on; `arp_ignore` is
    net.ipv4.conf.NAME.arp_ignore by NAME, "all" among them: the kernel takes the larger of the two.
    """
    if INTERFACE not in interfaces:
        return ""
    everywhere = arp_ignore.get("all", 0)
    loose = sorted(name for name in used if max(everywhere, arp_ignore.get(name, 0)) < 1)
    if not loose:
        return ""
    return (
        f"kube-proxy runs in IPVS mode without strictARP: this node's kernel answers ARP on {', '.join(loose)} for "
        f"every Service address, beside the node that announces it; {FIX}"
    )
