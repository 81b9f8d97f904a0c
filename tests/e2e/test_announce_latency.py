"""From a new Service to the first answer to ARP, beside a client that writes the status itself (`make accept`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench import announce
from tests.cluster import Cluster
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster, pytest.mark.accept]


@pytest.fixture(scope="module")
def installed(lab: Cluster) -> Iterator[Cluster]:
    product.clean(lab)
    product.install(lab, product.layer2())
    yield lab
    product.clean(lab)


def test_a_new_service_is_answered_for_as_soon_as_the_target_says(installed: Cluster) -> None:
    """The best of three runs: whatever else the machine does in one of them says nothing of the speakers."""
    ratios = []
    for attempt in range(3):
        print(f"run {attempt + 1}")
        ratio, _ = announce.report(announce.measure(installed, 50))
        ratios.append(ratio)
        if ratio <= announce.RATIO:
            break
    assert min(ratios) <= announce.RATIO
