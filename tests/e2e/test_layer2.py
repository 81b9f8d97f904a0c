"""Layer 2, as a client outside the cluster sees it: one owner per address, fail-over, Local, release."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]

ADDRESS_V4, ADDRESS_V6 = "172.18.0.200", "fd00:172:18::200"


@pytest.fixture(scope="module")
def net(lab: Cluster) -> Iterator[Cluster]:
    """The product with a dual-stack pool, and a backend on every node: `on-node1`..."""
    product.uninstall(lab)
    product.install(lab, product.layer2())
    product.apps(lab, [product.backend(f"on-{node}", node) for node in lab.nodes])
    yield lab
    lab.kubectl("delete", "namespace", product.APP, "--wait=true", "--timeout=60s")
    product.uninstall(lab)


def test_exactly_one_node_answers_arp_and_ndp(net: Cluster) -> None:
    [found] = product.expose(net, product.service("dual", **product.DUAL))
    assert found == [ADDRESS_V4, ADDRESS_V6]
    first = product.ranked(net.nodes, ADDRESS_V4)[0]
    net.wait("the elected node answers ARP", lambda: net.owners(ADDRESS_V4) == [first], 20)
    net.wait("and NDP: a dual-stack Service is elected on its first address", lambda: net.owners(ADDRESS_V6) == [first])
    for address in found:
        assert net.owners(address, attempts=4) == [first]
        seen = net.fetch(address)
        assert "pod=on-node" in seen
    net.wait(
        "the event nodeAssigned",
        lambda: (
            f'announcing from node "{first}"'
            in [e["message"] for e in product.events(net, "Service", "dual", product.APP)]
        ),
        10,
    )
    product.remove(net, "dual")


def test_addresses_are_spread_over_the_nodes_by_the_originals_rule(net: Cluster) -> None:
    services = [product.service(f"spread{i}") for i in range(8)]
    found = [a for [a] in product.expose(net, *services)]
    expected = {address: product.ranked(net.nodes, address)[0] for address in found}
    assert len(set(expected.values())) > 1
    net.wait(
        "every address is answered by its node",
        lambda: {a: net.owners(a, attempts=1) for a in found} == {a: [n] for a, n in expected.items()},
        30,
    )
    product.remove(net, *(s["metadata"]["name"] for s in services))


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_traffic_follows_when_the_node_loses_power_and_returns_in_order(net: Cluster, family: str) -> None:
    address = ADDRESS_V4 if family == "IPv4" else ADDRESS_V6
    owner, heir, last = product.ranked(net.nodes, address)
    # The backend is on the third node, so that what is measured is the address and nothing else.
    assert product.expose(net, product.service("follow", f"on-{last}", ipFamilies=[family])) == [[address]]
    net.wait("the elected node answers", lambda: net.owners(address) == [owner], 20)
    with net.probe(address, every=0.05, timeout=0.4) as probe:
        net.wait("good answers", lambda: len(probe.report().good) > 20, 10)
        net.power_off(owner)
        try:
            cut = time.monotonic()
            net.wait("answers again", lambda: probe.report().since(cut + 0.5).good, 20)
            time.sleep(1)
            away = probe.report().since(cut)
            assert away.values("node").keys() == {last}
            assert net.owners(address) == [heir]
            assert away.longest < 10, f"away for {away.longest:.1f} s: {away.failures}"
            print(f"\n{family}: away for {away.longest:.2f} s after power-off")
        finally:
            net.power_on(owner)
        back = time.monotonic()
        net.wait("the returned node has its address again, alone", lambda: net.owners(address) == [owner], 60)
        returned = probe.report().since(back)
        assert returned.longest < 3, f"the return cost {returned.longest:.1f} s: {returned.failures}"
        print(f"{family}: back with its node after {time.monotonic() - back:.1f} s, away for {returned.longest:.2f} s")
    product.remove(net, "follow")


def test_local_traffic_lands_only_on_nodes_with_an_endpoint(net: Cluster) -> None:
    """Six addresses, so that the election without the policy would choose every node."""
    services = [product.service(f"local{i}", "on-node2", **product.LOCAL, **product.DUAL) for i in range(6)]
    found = product.expose(net, *services)
    assert len({product.ranked(net.nodes, pair[0])[0] for pair in found}) > 1
    for pair in found:
        for address in pair:
            net.wait(
                f"node2 alone answers for {address}",
                lambda address=address: net.owners(address, attempts=1) == ["node2"],
                20,
            )
            page = net.fetch(address)
            assert "node=node2\n" in page
            client = "172.18.0.5" if "." in address else "fd00:172:18::5"
            assert f"client={client}\n" in page, "the client's address arrives as it is"

    # The endpoint moves to another node, and the addresses with it.
    name, [moving, _] = "local0", found[0]
    patch = '{"spec":{"selector":{"backend":"on-node3"}}}'
    net.kubectl("-n", product.APP, "patch", "service", name, "--type=merge", "-p", patch)
    net.wait("node3 alone answers", lambda: net.owners(moving) == ["node3"], 20)
    net.wait("the client is at node3", lambda: "node=node3\n" in net.fetch(moving), 20)

    # No endpoint at all: nobody answers.
    net.kubectl("-n", product.APP, "scale", "deployment", "on-node3", "--replicas=0")
    try:
        net.wait("nobody answers for an address without an endpoint", lambda: net.owners(moving) == [], 30)
    finally:
        net.kubectl("-n", product.APP, "scale", "deployment", "on-node3", "--replicas=1")
    net.wait("node3 answers again", lambda: net.owners(moving) == ["node3"], 30)
    product.remove(net, *(s["metadata"]["name"] for s in services))


def test_a_deleted_services_address_falls_silent_and_is_given_out_again(net: Cluster) -> None:
    [pair] = product.expose(net, product.service("gone", **product.DUAL))
    for address in pair:
        net.wait(f"{address} answers", lambda address=address: net.fetch(address), 20)
    product.remove(net, "gone")
    for address in pair:
        net.wait(
            f"nobody answers for {address}",
            lambda address=address: net.owners(address, attempts=1) == [],
            20,
        )
    assert product.expose(net, product.service("next", **product.DUAL)) == [pair]
    net.wait("the next Service's page", lambda: net.fetch(pair[0]), 20)
    product.remove(net, "next")
