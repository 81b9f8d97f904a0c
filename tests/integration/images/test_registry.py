"""Pushing to a real registry, and what it then serves."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import oci, registry
from tests.cluster.controlplane import free_port

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry.local(tmp_path_factory.mktemp("registry"), free_port()) as where:
        yield where


def _get(address: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{address}/v2/{path}", headers={"Accept": registry.MANIFEST})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def test_what_is_pushed_can_be_pulled_whole(archive: Path, name: str, address: str) -> None:
    digest = registry.push(archive, f"{address}/metallb/{name}:v1")
    body = _get(address, f"metallb/{name}/manifests/v1")
    assert digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
    manifest = json.loads(body)
    blobs = [manifest["config"], *manifest["layers"]]
    for blob in blobs:
        content = _get(address, f"metallb/{name}/blobs/{blob['digest']}")
        assert len(content) == blob["size"]
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob["digest"]
    # Layers go uncompressed, so that their digests are those that the image's configuration names.
    assert tuple(layer["digest"] for layer in manifest["layers"]) == oci.read(archive).layers


def test_pushing_again_is_the_same(archive: Path, name: str, address: str) -> None:
    assert registry.push(archive, f"{address}/again/{name}:a") == registry.push(archive, f"{address}/again/{name}:b")


def test_refusals_say_what(archive: Path, address: str, tmp_path: Path) -> None:
    with pytest.raises(registry.RegistryError, match="HOST:PORT/NAME:TAG"):
        registry.push(archive, "v1")
    with pytest.raises(registry.RegistryError, match=r"PUT .*manifests.*40[04]"):
        registry.push(archive, f"{address}/a/b:!")
    with pytest.raises(registry.RegistryError, match="refused"):
        registry.push(archive, f"127.0.0.1:{free_port()}/a/b:v1")
    with pytest.raises(registry.RegistryError, match="No such file"):
        registry.push(tmp_path / "none.tar", f"{address}/a/b:v1")
