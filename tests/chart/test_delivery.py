"""The GitOps examples of the documentation and the workflows: each is right as it stands there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, ROOT, one, render
from tests.cluster import toolchain

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
GITOPS = ROOT / "docs" / "gitops.md"


def blocks(path: Path) -> list[dict[str, Any]]:
    """Every YAML document in the fenced blocks of a page."""
    fenced = re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    return [d for text in fenced for d in yaml.safe_load_all(text) if d]


@pytest.fixture(scope="module")
def examples() -> dict[str, dict[str, Any]]:
    return {d["kind"]: d for d in blocks(GITOPS)}


def test_kinds(examples: dict[str, dict[str, Any]]) -> None:
    assert {k: d["apiVersion"] for k, d in examples.items()} == {
        "Application": "argoproj.io/v1alpha1",
        "HelmRepository": "source.toolkit.fluxcd.io/v1",
        "HelmRelease": "helm.toolkit.fluxcd.io/v2",
    }


def test_examples_install_this_version(examples: dict[str, dict[str, Any]]) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert examples["Application"]["spec"]["source"]["targetRevision"] == version
    assert examples["HelmRelease"]["spec"]["chart"]["spec"]["version"] == version


def test_values_of_the_examples_render(examples: dict[str, dict[str, Any]]) -> None:
    argo = render(examples["Application"]["spec"]["source"]["helm"]["valuesObject"])
    flux = render(examples["HelmRelease"]["spec"]["values"])
    for found in (argo, flux):
        assert one(found, "ConfigMap")["metadata"]["name"] == "metallb"
        image = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
        assert image == "registry.example.com/metallb/controller:v1.0.0"
    assert one(flux, "Role", "metallb-speaker")["rules"][0]["resourceNames"] == ["bgp-rack1"]


def test_flux_release_finds_its_repository(examples: dict[str, dict[str, Any]]) -> None:
    source = examples["HelmRelease"]["spec"]["chart"]["spec"]["sourceRef"]
    repository = examples["HelmRepository"]
    assert (source["kind"], source["name"]) == (repository["kind"], repository["metadata"]["name"])
    assert repository["metadata"]["namespace"] == examples["HelmRelease"]["metadata"]["namespace"]


def test_what_the_processes_make_is_named_as_the_chart_names_it() -> None:
    page = GITOPS.read_text()
    env = one(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
    named = {e["name"]: e.get("value") for e in env}
    for variable in ("METALLB_ACCEPTED_CONFIG", "METALLB_ML_SECRET_NAME", "METALLB_LEASE_NAME"):
        assert f"`{named[variable]}`" in page


def test_install_page_renders() -> None:
    """The values in docs/install.md are values that the chart takes."""
    values = [d for d in blocks(ROOT / "docs" / "install.md") if "configInline" in d]
    assert values
    for given in values:
        assert one(render(given), "ConfigMap")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow(path: Path) -> None:
    """Valid YAML, least rights, a time limit on each job, and actions by version tag."""
    flow = yaml.safe_load(path.read_text())
    assert flow["name"] == path.stem
    assert flow["permissions"]["contents"] in ("read", "write")
    makefile = (ROOT / "Makefile").read_text()
    for job in flow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step["uses"]
            for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_workflows_pass_actionlint() -> None:
    """Keys, contexts, expressions, labels of runners: what the host of the workflows would refuse."""
    command = [str(toolchain.path("actionlint")), "-shellcheck=", "-pyflakes=", *map(str, WORKFLOWS)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(("right", "wrong"), [("runs-on:", "run-on:"), ("github.ref_name", "github.refname")])
def test_actionlint_finds_a_mistake(right: str, wrong: str, tmp_path: Path) -> None:
    """Or the test above proves nothing."""
    broken = tmp_path / "broken.yaml"
    broken.write_text((ROOT / ".github" / "workflows" / "release.yaml").read_text().replace(right, wrong))
    command = [str(toolchain.path("actionlint")), "-shellcheck=", "-pyflakes=", str(broken)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1


@pytest.mark.parametrize("name", ["helm-unittest", "helm"])
def test_workflows_use_the_pinned_programs(name: str) -> None:
    assert toolchain.BY_NAME[name].version in (ROOT / ".github" / "workflows" / "chart.yaml").read_text()
