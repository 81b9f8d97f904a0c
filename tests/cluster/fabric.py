"""Hosts and the switch between them: a network namespace per host, one cable each into a bridge.

The bridge lives in a namespace of its own (``fab``), so that instances with equal addresses never meet.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tests.cluster.instance import ClusterError, Instance, say
from tests.cluster.plan import CONTROL_PLANE, Host, Node, Plan

SWITCH = "fab"
_NETNS = Path("/run/netns")

#: Set in every host before its first link: no duplicate address detection (it would cost a second per
#: address, and every address here is ours), no autoconfiguration, replies may leave by another way.
_HOST_SYSCTLS = (
    "net.ipv6.conf.all.disable_ipv6=0",
    "net.ipv6.conf.default.disable_ipv6=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.accept_ra=0",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.arp_ignore=0",
    "net.ipv4.conf.default.arp_ignore=0",
)
_ROUTER_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.forwarding=1",
)


class Fabric:
    """The network of one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def make(self, plan: Plan) -> None:
        """The switch, every host of the plan, and the routes to the pods. Raises ClusterError."""
        fab = self._add_namespace(SWITCH)
        _sysctl(fab, ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
        _ip(fab, ["link add br0 type bridge", "link set br0 up"])
        for host in plan.hosts:
            self.add_host(plan, host, router=host is CONTROL_PLANE or isinstance(host, Node))
        for node in plan.node_hosts:
            self._routes(plan, node)
            self._masquerade(plan, node)

    def add_host(self, plan: Plan, host: Host, *, router: bool = False) -> None:
        """One more host on the switch, with the addresses of its number in the families of the plan."""
        namespace = self._add_namespace(host.name)
        _sysctl(namespace, [*_HOST_SYSCTLS, *(_ROUTER_SYSCTLS if router else ())])
        port = port_of(host.name)
        _ip(
            self._instance.netns(SWITCH),
            [
                f"link add {port} type veth peer name eth0 address {host.mac} netns {namespace}",
                f"link set {port} master br0",
                f"link set {port} up",
            ],
        )
        lines = ["link set lo up", "link set eth0 up"]
        lines += [f"addr add {host.v4}/16 dev eth0"] * plan.family.v4
        lines += [f"addr add {host.v6}/64 dev eth0 nodad"] * plan.family.v6
        _ip(namespace, lines)

    def remove_host(self, name: str) -> None:
        """Undo `add_host`: the cable is gone at once, the host as soon as no process of its own runs any more."""
        _ip(self._instance.netns(SWITCH), [f"link del {port_of(name)}"])
        _run(["ip", "netns", "del", self._instance.netns(name)])

    def _routes(self, plan: Plan, node: Node) -> None:
        """Pods of other nodes by way of their node; a default route, as nodes have one (cp forwards nothing)."""
        lines = []
        for via, pods_v4, pods_v6 in [
            (CONTROL_PLANE, "default", "default"),
            *((n, n.pods_v4, n.pods_v6) for n in plan.node_hosts if n != node),
        ]:
            lines += [f"route add {pods_v4} via {via.v4}"] * plan.family.v4
            lines += [f"route add {pods_v6} via {via.v6}"] * plan.family.v6
        _ip(self._instance.netns(node.name), lines)
        lines = [f"route add {node.pods_v4} via {node.v4}"] * plan.family.v4
        lines += [f"route add {node.pods_v6} via {node.v6}"] * plan.family.v6
        _ip(self._instance.netns(CONTROL_PLANE.name), lines)

    def _masquerade(self, plan: Plan, node: Node) -> None:
        """What leaves the pod network goes out under the node's address."""
        rules = plan.family.pick(
            f"ip saddr {node.pods_v4} ip daddr != 10.244.0.0/16 masquerade",
            f"ip6 saddr {node.pods_v6} ip6 daddr != fd00:10:244::/48 masquerade",
        )
        body = "; ".join(rules)
        _nft(
            self._instance.netns(node.name),
            f"table inet pods {{ chain out {{ type nat hook postrouting priority 100; {body}; }}; }}",
        )

    def _add_namespace(self, host: str) -> str:
        name = self._instance.netns(host)
        _run(["ip", "netns", "add", name])
        return name

    def namespaces(self) -> list[str]:
        """The instance's namespaces that exist now, whoever made them."""
        if not _NETNS.is_dir():
            return []
        return sorted(p.name for p in _NETNS.iterdir() if p.name.startswith(self._instance.prefix + "-"))

    def hosts(self) -> list[str]:
        cut = len(self._instance.prefix) + 1
        return [n[cut:] for n in self.namespaces()]

    def remove(self) -> None:
        """Every namespace of the instance. What is inside goes with it once no process holds it."""
        for name in self.namespaces():
            with contextlib.suppress(ClusterError):
                _run(["ip", "netns", "del", name])
        left = self.namespaces()
        if left:
            raise ClusterError(f"namespaces that stay: {', '.join(left)}")

    # --- faults ---------------------------------------------------------------------------------

    def cable(self, host: str, *, plugged: bool) -> None:
        """Pull the host's cable, or plug it in again. To others the host is as good as powered off."""
        _ip(self._instance.netns(SWITCH), [f"link set {port_of(host)} {'up' if plugged else 'down'}"])

    def drop(self, source: str, target: str, match: str = "", percent: int = 100) -> None:
        """Let the switch lose frames from one host to another: those that match (nft syntax), so many of 100."""
        if not 1 <= percent <= 100:
            raise ClusterError(f"{percent} percent: must be 1 to 100")
        chance = "" if percent == 100 else f"numgen random mod 100 < {percent}"
        fab = self._instance.netns(SWITCH)
        _nft(fab, "add table bridge faults; add chain bridge faults forward { type filter hook forward priority 0; }")
        ways = f"iifname {port_of(source)} oifname {port_of(target)}"
        _nft(fab, f"add rule bridge faults forward {ways} {match} {chance} counter drop")

    def isolate(self, host: str) -> None:
        """Let the switch lose every frame from and to a host at one stroke. Its link stays up: it cannot notice."""
        port, hook = port_of(host), "type filter hook forward priority 0"
        rules = "".join(f"add rule bridge faults forward {way} {port} counter drop; " for way in ("iifname", "oifname"))
        fab = self._instance.netns(SWITCH)
        _nft(fab, f"add table bridge faults; add chain bridge faults forward {{ {hook}; }}; {rules}")

    def heal(self) -> None:
        """Undo every `drop` and `isolate`."""
        fab = self._instance.netns(SWITCH)
        _nft(fab, "add table bridge faults; delete table bridge faults")


def port_of(host: str) -> str:
    """The name of the host's port at the bridge; an interface name holds 15 bytes (IFNAMSIZ)."""
    if len(host) > 13:
        raise ClusterError(f"host name {host!r}: longer than 13 letters")
    return f"p-{host}"


def _ip(namespace: str, lines: list[str]) -> None:
    _run(["ip", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _sysctl(namespace: str, settings: list[str]) -> None:
    _run(["nsenter", f"--net=/run/netns/{namespace}", "--", "sysctl", "-qw", *settings])


def _nft(namespace: str, text: str) -> None:
    _run(["nsenter", f"--net=/run/netns/{namespace}", "--", "nft", "-f", "-"], text + "\n")


def _run(argv: list[str], given: str = "") -> None:
    told = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    if told.returncode:
        raise ClusterError(f"{' '.join(argv)}: {told.stderr.strip() or told.stdout.strip()}\n{given}".rstrip())
    if told.stderr:
        say(told.stderr.strip())
