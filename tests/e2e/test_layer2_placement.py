"""Who may announce an address by layer 2, and how many each: spread, subnets, advertisements, cordon, foreign hosts."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.answers import LOOK, Answers
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]

#: A second subnet on the same switch, and a range of it.
SUBNET, RANGE = "10.77.0.", "10.77.0.100-10.77.0.120"
INTRUDER = "intruder"


@pytest.fixture(scope="module")
def net(lab: Cluster) -> Iterator[Cluster]:
    product.ensure(lab)
    product.apps(lab, [product.backend(f"on-{node}", node) for node in lab.nodes])
    yield lab
    product.remove(lab, "--all")
    product.edit_config(lab, product.layer2())


@pytest.fixture(autouse=True)
def _as_at_the_start(net: Cluster) -> None:
    """Each test finds what the first one found, whatever became of the one before."""
    product.remove(net, "--all")
    product.edit_config(net, product.layer2())


def follows(net: Cluster, owners: dict[str, str], timeout: float = 30.0) -> None:
    """Wait until each address is answered by this node alone; "": by nobody."""
    with Answers(net, list(owners)) as seen:
        time.sleep(LOOK)
        net.wait(f"{owners}", lambda: seen.lately() == owners, timeout)


def only(*nodes: str, **more: Any) -> dict[str, Any]:
    """An advertisement of these nodes."""
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}
    return {"node-selectors": [{"match-expressions": [expression]}]} | more


def status(net: Cluster, node: str) -> dict[str, Any]:
    """`/status` of the speaker on a node."""
    (pod,) = [p for p in product.pods(net, product.BY_HELM["speaker"]) if p["spec"]["nodeName"] == node]
    path = f"/api/v1/namespaces/{product.NAMESPACE}/pods/{pod['metadata']['name']}:7472/proxy/status"
    found: dict[str, Any] = json.loads(net.kubectl("get", "--raw", path))
    return found


def test_an_even_spread_stays_even_when_a_node_is_cordoned(net: Cluster) -> None:
    """By hash these would be uneven; the cordoned node's addresses move, the others stay."""
    product.edit_config(net, product.layer2(**{"l2-spread": "even"}))
    names = [f"even{i}" for i in range(7)]
    services = [product.service(name) for name in names]
    addresses = [address for [address] in product.expose(net, *services)]
    by_hash = Counter(product.ranked(net.nodes, address)[0] for address in addresses)
    assert sorted(by_hash.values()) != [2, 2, 3], "the rule is not tried by these addresses"

    owners: dict[str, str] = {}

    def even(*numbers: int) -> bool:
        owners.update(seen.lately())
        return sorted(Counter(owners.values()).values()) == sorted(numbers)

    with Answers(net, addresses) as seen:
        net.wait("two, two and three", lambda: even(2, 2, 3), 30)
        before = dict(owners)
        assert set(before.values()) == set(net.nodes)
        net.kubectl("cordon", "node2")
        try:
            net.wait("three and four", lambda: even(3, 4), 30)
            assert all(node == before[address] for address, node in owners.items() if before[address] != "node2")
        finally:
            net.kubectl("uncordon", "node2")
        net.wait("as before", lambda: seen.lately() == before, 30)
    product.remove(net, *names)


def test_an_address_of_a_subnet_that_one_node_has_is_announced_there(net: Cluster) -> None:
    """The others answer only while no node that has the subnet is alive."""
    product.edit_config(net, product.layer2(RANGE))
    address = next(a for i in range(100, 121) if product.ranked(net.nodes, a := f"{SUBNET}{i}")[0] == "node1")
    heir = product.ranked(["node2", "node3"], address)[0]
    wanted = product.service("elsewhere", "on-node1")
    wanted["metadata"]["annotations"] = {"metallb.universe.tf/loadBalancerIPs": address}
    net.run_in("client", "ip", "addr", "add", f"{SUBNET}5/24", "dev", "eth0")
    net.run_in("node3", "ip", "addr", "add", f"{SUBNET}13/24", "dev", "eth0")
    try:
        assert product.expose(net, wanted) == [[address]]
        follows(net, {address: "node3"})
        net.wait("the page", lambda: "pod=on-node1" in net.fetch(address), 20)
        net.run_in("node3", "ip", "addr", "del", f"{SUBNET}13/24", "dev", "eth0")
        follows(net, {address: "node1"})
        net.run_in(heir, "ip", "addr", "add", f"{SUBNET}13/24", "dev", "eth0")
        follows(net, {address: heir})
        net.power_off(heir)
        try:
            follows(net, {address: product.ranked(set(net.nodes) - {heir}, address)[0]})
        finally:
            net.power_on(heir)
        follows(net, {address: heir}, 60)
    finally:
        for host in ("client", *net.nodes):
            net.run_in(host, "ip", "addr", "del", f"{SUBNET}{5 if host == 'client' else 13}/24", "dev", "eth0",
                       check=False)  # fmt: skip
        product.remove(net, "elsewhere")


def test_advertisements_choose_nodes_services_and_interfaces_and_may_change(net: Cluster) -> None:
    product.edit_config(net, product.layer2(**{"l2-advertisements": [only("node2")]}))
    gold = product.service("gold", **product.DUAL)
    gold["metadata"]["labels"] = {"tier": "gold"}
    [pair, plain] = product.expose(net, gold, product.service("plain", **product.DUAL))
    follows(net, dict.fromkeys((*pair, *plain), "node2"))
    tiers = [only("node3", **{"service-selectors": [{"match-labels": {"tier": "gold"}}]}), only("node1")]
    product.edit_config(net, product.layer2(**{"l2-advertisements": tiers}))
    expected = "node1" if product.ranked(["node1", "node3"], pair[0])[0] == "node1" else "node3"
    follows(net, dict.fromkeys(pair, expected) | dict.fromkeys(plain, "node1"))
    product.edit_config(net, product.layer2(**{"l2-advertisements": [only("node3", interfaces=["eth9"])]}))
    follows(net, dict.fromkeys((*pair, *plain), ""))
    net.wait(
        "node3 says that it cannot reach it",
        lambda: any(pair[0] in problem for problem in status(net, "node3")["layer2"]["unreachable"]),
        10,
    )
    product.edit_config(net, product.layer2(**{"l2-advertisements": [only("node3", interfaces=["eth*"])]}))
    follows(net, dict.fromkeys((*pair, *plain), "node3"))
    product.remove(net, "gold", "plain")


def test_an_address_that_a_foreign_host_has_is_said_and_excluding_it_helps(net: Cluster) -> None:
    address = "172.18.0.222"
    product.edit_config(net, product.layer2(f"{address}/32", "172.18.0.223/32"))
    intruder = net.add_host(INTRUDER, 77)
    net.run_in(INTRUDER, "ip", "addr", "add", f"{address}/16", "dev", "eth0")
    metric = "metallb_layer2_address_conflict"

    def conflicts() -> list[str]:
        series = [
            name
            for pod in product.pods(net, product.BY_HELM["speaker"])
            for name, value in product.metrics(net, pod["metadata"]["name"]).items()
            if value and name.startswith(metric + "{")
        ]
        return [name for name in series if f'ip="{address}"' in name]

    try:
        assert product.expose(net, product.service("taken")) == [[address]]
        net.wait("the metric", lambda: len(conflicts()) == 1, 20)
        net.wait(
            "the event on the Service",
            lambda: [
                e
                for e in product.events(net, "Service", "taken", product.APP)
                if e["type"] == "Warning" and address in e["message"] and "exclude-addresses" in e["message"]
            ],
            20,
        )
        # Whoever gets the address answers after 2 ms without a reply: on a busy machine also here, for a moment, once.
        net.wait("the intruder alone answers", lambda: net.owners(address, attempts=3) == [intruder.mac], 20)
        assert net.owners(address, attempts=3) == [intruder.mac], "two hosts with one address is what this avoids"
        net.wait(
            "one speaker says so",
            lambda: len([p for node in net.nodes for p in status(net, node)["problems"] if address in p]) == 1,
            10,
        )
        product.remove(net, "taken")
        changed = product.layer2(f"{address}/32", "172.18.0.223/32", **{"exclude-addresses": [f"{address}/32"]})
        product.edit_config(net, changed)
        net.wait("the series ends", lambda: not conflicts(), 20)
        assert product.expose(net, product.service("taken")) == [["172.18.0.223"]]
        net.wait("the page", lambda: net.fetch("172.18.0.223"), 20)
        product.remove(net, "taken")
        # The other fix: the host goes. Whoever has waited for that announces the address.
        product.edit_config(net, product.layer2(f"{address}/32"))
        product.expose(net, product.service("taken"))
        net.wait("the metric again", lambda: len(conflicts()) == 1, 20)
        net.run_in(INTRUDER, "ip", "addr", "del", f"{address}/16", "dev", "eth0")
        follows(net, {address: product.ranked(net.nodes, address)[0]})
        net.wait("the series ends again", lambda: not conflicts(), 30)
    finally:
        net.remove_host(INTRUDER)
        product.remove(net, "taken")
