"""Kustomize: the manifests as a base, the configuration by a configMapGenerator, images renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.e2e import product

pytestmark = [pytest.mark.root, pytest.mark.cluster]

KUSTOMIZATION = """\
namespace: metallb-system
resources:
  - {base}
configMapGenerator:
  - name: config
    files:
      - config
generatorOptions:
  disableNameSuffixHash: true
"""


@pytest.fixture(scope="module")
def overlay(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("overlay")
    base = os.path.relpath(product.MANIFESTS, folder)
    (folder / "kustomization.yaml").write_text(KUSTOMIZATION.format(base=base))
    (folder / "config").write_text(
        "address-pools:\n- name: my-ip-space\n  protocol: layer2\n  addresses:\n  - fd00:172:18::200/123\n"
    )
    product.clean(lab)
    product.apps(lab, [product.backend("one")])
    yield folder
    product.clean(lab)


def test_one_apply_gives_an_address_that_answers(lab: Cluster, overlay: Path) -> None:
    lab.kubectl("apply", "-k", str(overlay))
    [[address]] = product.expose(lab, product.service("first", "one", ipFamilies=["IPv6"]), timeout=90)
    assert address == "fd00:172:18::200"
    lab.wait("the page", lambda: "pod=one-" in lab.fetch(address), 30)
    assert product.sole_owner(lab, address) in lab.nodes


def test_an_edited_configuration_is_taken_by_the_next_apply(lab: Cluster, overlay: Path) -> None:
    config = overlay / "config"
    config.write_text(config.read_text() + "  - 172.18.0.240/29\n")
    lab.kubectl("apply", "-k", str(overlay))
    assert product.expose(lab, product.service("second", "one")) == [["172.18.0.240"]]
    product.remove(lab, "first", "second")
