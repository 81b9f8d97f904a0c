"""The values and the kustomizations that the documents show are accepted as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from metallb_speaker.announcer.bfd.wire import CONTROL_PORT, ECHO_PORT, MULTIHOP_PORT
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


@pytest.mark.parametrize(
    ("key", "needs"),
    [("password-secret", ("peerPasswordSecrets", "peer-passwords")), ("listen", ("speaker.bgpListen", "manifests"))],
)
def test_the_reference_says_what_a_key_needs_where_the_chart_cannot_see_it(key: str, needs: tuple[str, ...]) -> None:
    [row] = re.findall(rf"^\| `{key}` \|.*$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert [word for word in needs if word not in row] == []


def test_no_job_runs_its_script_in_our_images() -> None:
    """They have no shell, so a CI system can start no script in them."""
    jobs = [job for _, text in blocks("script:") for job in yaml.safe_load(text).values()]
    assert jobs
    for job in jobs:
        image = job["image"]
        assert "metallb/" not in (image if isinstance(image, str) else image["name"])


def test_installing_names_every_port_that_a_firewall_must_let_through() -> None:
    values = yaml.safe_load((ROOT / "chart" / "values.yaml").read_text())
    udp = [values["speaker"]["memberlist"]["mlBindPort"], CONTROL_PORT, ECHO_PORT, MULTIHOP_PORT]
    ports = [f"{values['prometheus']['metricsPort']}/TCP", "179/TCP", *(f"{port}/UDP" for port in udp)]
    text = (ROOT / "docs" / "install.md").read_text()
    assert [port for port in ports if f"\n| {port} |" not in text] == []


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
    workloads = [objects["DaemonSet", "speaker"], objects["Deployment", "controller"]]
    containers = [c for w in workloads for c in w["spec"]["template"]["spec"]["containers"]]
    assert {c["image"].rpartition("/")[0] for c in containers} == {"registry.example.com/metallb"}
    assert told.stderr == ""
