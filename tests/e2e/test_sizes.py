"""Clusters of other sizes: one node, two nodes, and without any IPv4."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.e2e import product
from tests.e2e.conftest import SECOND, load_images

pytestmark = [pytest.mark.root, pytest.mark.cluster]


@pytest.fixture(params=[(1, "dual"), (2, "ipv6")], ids=["one node", "two nodes, IPv6 only"])
def other(request: pytest.FixtureRequest, session_name: str, _needs_embedded: None) -> Iterator[Cluster]:
    nodes, family = request.param
    one = Cluster(session_name + SECOND, nodes=nodes, family=family)
    try:
        one.up()
        load_images(one)
        yield one
    finally:
        one.down()


def test_the_main_job_in_another_cluster(other: Cluster) -> None:
    pools = other.plan.family.pick(product.POOL_V4, product.POOL_V6)
    expected = other.plan.family.pick("172.18.0.200", "fd00:172:18::200")
    product.install(other, product.layer2(*pools))
    ranked = product.ranked(other.nodes, expected[0])
    first, last = ranked[0], ranked[-1]
    product.apps(other, [product.backend("one", last)])
    spec = product.DUAL if len(expected) == 2 else {}
    assert product.expose(other, product.service("first", "one", **spec)) == [expected]
    for address in expected:
        other.wait(f"the page at {address}", lambda address=address: other.fetch(address), 20)
        other.wait(f"its node alone answers for {address}", lambda a=address: product.sole_owner(other, a) == first, 30)
    if len(other.nodes) > 1:
        owner = product.sole_owner(other, expected[0])
        other.power_off(owner)
        other.wait("the other node has taken over", lambda: other.owners(expected[0]) == [last], 20)
        other.wait("the page is served again", lambda: other.fetch(expected[0]), 20)
    assert [product.restarts(other, c) for c in product.BY_HELM.values()] == [0, 0]
