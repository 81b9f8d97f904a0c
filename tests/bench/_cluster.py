"""The embedded cluster for a measurement: a running one, or one of its own that ends with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from tests.cluster import Cluster, images
from tests.e2e import product


@contextlib.contextmanager
def with_product(name: str = "") -> Iterator[Cluster]:
    """The chart installed at its defaults; in the running cluster `name`, or else in a new one called ``bench``."""
    cluster = Cluster.attach(name) if name else Cluster("bench").up()
    try:
        cluster.load(*images.build(lambda text: print(f"images: {text}", file=sys.stderr)).values())
        product.clean(cluster)
        product.install(cluster, product.layer2())
        yield cluster
    finally:
        if not name:
            cluster.down()
