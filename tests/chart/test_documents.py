"""The values and the kustomizations that the documents show are accepted as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster import demo, images, toolchain

ROOT = images.ROOT
BLOCK = re.compile(r"```ya?ml\n(.*?)```|<<'YAML'\n(.*?)\nYAML", re.DOTALL)


def blocks(word: str) -> list[tuple[str, str]]:
    """(document, text) of every YAML block in the documents that has the word."""
    found = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for first, second in BLOCK.findall(document.read_text()):
            if word in (text := first or second):
                found.append((document.name, text))
    return found


VALUES = [
    *((name, text) for name, text in blocks("configInline:") if "apiVersion:" not in text),
    ("make demo", demo.VALUES.format(registry="172.18.0.6:5000")),
]
KUSTOMIZATIONS = blocks("configMapGenerator:")


def test_the_documents_show_both() -> None:
    assert {"README.md", "install.md", "demo-kind.md"} <= {name for name, _ in VALUES}
    assert {"README.md", "install.md"} <= {name for name, _ in KUSTOMIZATIONS}


@pytest.mark.parametrize(("name", "text"), VALUES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(VALUES)])
def test_values_are_accepted(name: str, text: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(text)
    command = [toolchain.path("helm"), "template", "metallb", ROOT / "chart", "-f", values]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    registry = yaml.safe_load(text).get("global", {}).get("imageRegistry", "localhost")
    assert set(re.findall(r"image: \"?([^/\"]+)/metallb/", told.stdout)) == {registry}


@pytest.mark.parametrize(("name", "text"), KUSTOMIZATIONS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(KUSTOMIZATIONS)])
def test_kustomizations_build(name: str, text: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "manifests", tmp_path / "path/to/manifests")
    (tmp_path / "kustomization.yaml").write_text(text)
    (tmp_path / "config").write_text("address-pools: []\n")
    told = subprocess.run([toolchain.path("kubectl"), "kustomize", tmp_path], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(told.stdout)}
    assert objects["ConfigMap", "config"]["metadata"]["namespace"] == "metallb-system"
    assert ("DaemonSet", "speaker") in objects
    assert told.stderr == ""
