"""Layer 2, as a client outside the cluster sees it: one owner per address, fail-over, Local, release."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.cluster.answers import Answers
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]

ADDRESS_V4, ADDRESS_V6 = "172.18.0.200", "fd00:172:18::200"


@pytest.fixture(scope="module")
def net(lab: Cluster) -> Iterator[Cluster]:
    """The product with a dual-stack pool, and a backend on every node: `on-node1`..."""
    product.ensure(lab)
    product.apps(lab, [product.backend(f"on-{node}", node) for node in lab.nodes])
    yield lab
    product.remove(lab, "--all")


@pytest.fixture(autouse=True)
def _as_at_the_start(net: Cluster) -> None:
    """Each test finds what the first one found, whatever became of the one before."""
    product.remove(net, "--all")


def test_exactly_one_node_answers_arp_and_ndp(net: Cluster) -> None:
    [found] = product.expose(net, product.service("dual", **product.DUAL))
    assert found == [ADDRESS_V4, ADDRESS_V6]
    first = product.ranked(net.nodes, ADDRESS_V4)[0]
    net.wait("the elected node answers ARP", lambda: net.owners(ADDRESS_V4) == [first], 20)
    net.wait("and NDP: a dual-stack Service is elected on its first address", lambda: net.owners(ADDRESS_V6) == [first])
    for address in found:
        net.wait(f"and alone for {address}", lambda a=address: product.sole_owner(net, a) == first, 20)
        net.wait("the page", lambda address=address: "pod=on-node" in net.fetch(address), 20)
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


def test_traffic_follows_when_the_node_loses_power_and_returns_in_order(net: Cluster) -> None:
    """A dual-stack Service, elected on its IPv4 address; both families are watched by a client all the time."""
    owner, heir, last = product.ranked(net.nodes, ADDRESS_V4)
    # The backend is on the third node, so that what is measured is the address and nothing else.
    [pair] = product.expose(net, product.service("follow", f"on-{last}", **product.DUAL))
    assert pair == [ADDRESS_V4, ADDRESS_V6]
    with (
        Answers(net, pair) as seen,
        net.probe(ADDRESS_V4, every=0.05, timeout=0.4) as v4,
        net.probe(ADDRESS_V6, every=0.05, timeout=0.4) as v6,
    ):
        net.wait("the elected node alone answers", lambda: seen.lately() == dict.fromkeys(pair, owner), 20)
        probes = {"IPv4": v4, "IPv6": v6}
        net.wait("good answers", lambda: all(len(p.report().good) > 20 for p in probes.values()), 10)
        net.power_off(owner)
        try:
            cut = time.monotonic()
            for probe in probes.values():
                net.wait("answers again", lambda probe=probe: probe.report().since(cut + 0.5).good, 20)
            time.sleep(1)
            for family, probe in probes.items():
                away = probe.report().since(cut)
                print(f"\n{family}: away for {away.longest:.2f} s after power-off {away.set_apart}")
                assert away.values("node").keys() == {last}
                assert away.longest < 10, away.failures
            net.wait("the next node alone answers", lambda: seen.lately() == dict.fromkeys(pair, heir), 20)
        finally:
            net.power_on(owner)
        # It had the address until the cable was pulled, and does not know better: it must notice at once, and get it
        # back once, by a hand-over.
        back = time.monotonic()
        paths = ([heir, owner], [owner, heir, owner])

        net.wait("back with its node", lambda: seen.lately() == dict.fromkeys(pair, owner), 60)
        print(f"back with its node after {time.monotonic() - back:.1f} s")
        time.sleep(3)
        for address, line in seen.now().items():
            path, paused = line.since(back), seen.stalled(back)
            # A speaker that did not get to run for half a second rightly gives its addresses up, and gets them back.
            assert path.owners in paths or (paused and path.owners[-1] == owner), (address, path.owners)
            assert path.silence < 5 + paused, address
            assert path.doubled < 3 + paused, address
        for family, probe in probes.items():
            returned = probe.report().since(back)
            print(f"{family}: away for {returned.longest:.2f} s at the return {returned.set_apart}")
            assert returned.longest < 3, returned.failures
    product.remove(net, "follow")


def test_local_traffic_lands_only_on_nodes_with_an_endpoint(net: Cluster) -> None:
    """Four addresses, so that the election without the policy would choose every node."""
    services = [product.service(f"local{i}", "on-node2", **product.LOCAL, **product.DUAL) for i in range(4)]
    found = product.expose(net, *services)
    assert len({product.ranked(net.nodes, pair[0])[0] for pair in found}) > 1
    for pair in found:
        for address in pair:
            net.wait(
                f"node2 alone answers for {address}",
                lambda address=address: net.owners(address, attempts=1) == ["node2"],
                20,
            )
            pages: list[str] = []
            net.wait("the page", lambda address=address, pages=pages: pages.append(net.fetch(address)) or pages, 20)
            [page] = pages
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
