"""The chart over files of values: exactly which objects, the same with Helm 3 and 4, the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, VALUES, helm, objects, one, render, template

#: What every installation has, by (kind, name).
SHARED = {
    ("Role", "metallb-config-watcher"),
    ("RoleBinding", "metallb-config-watcher"),
    ("Role", "metallb-pod-lister"),
    ("RoleBinding", "metallb-pod-lister"),
    ("ClusterRole", "metallb:controller"),
    ("ClusterRoleBinding", "metallb:controller"),
    ("ClusterRole", "metallb:speaker"),
    ("ClusterRoleBinding", "metallb:speaker"),
    ("Role", "metallb-controller"),
    ("RoleBinding", "metallb-controller"),
}
CONTROLLER = {("ServiceAccount", "metallb-controller"), ("Deployment", "metallb-controller")}
SPEAKER = {("ServiceAccount", "metallb-speaker"), ("DaemonSet", "metallb-speaker")}
PASSWORDS = {("Role", "metallb-speaker"), ("RoleBinding", "metallb-speaker")}
CONFIG = {("ConfigMap", "metallb")}
USUAL = SHARED | CONTROLLER | SPEAKER


def monitors(*components: str) -> set[tuple[str, str]]:
    found = {("Role", "metallb-prometheus"), ("RoleBinding", "metallb-prometheus")}
    for name in components:
        found |= {("PodMonitor", f"metallb-{name}"), ("ServiceMonitor", f"metallb-{name}")}
        found |= {("Service", f"metallb-{name}-metrics")}
    return found


EDGE = {(kind, name.replace("metallb", "edge")) for kind, name in USUAL - {("ServiceAccount", "metallb-controller")}}

EXPECTED: dict[str, set[tuple[str, str]]] = {
    "01-nothing-set": USUAL,
    "02-layer2": USUAL | CONFIG,
    "03-bgp": USUAL | CONFIG | PASSWORDS | {("Secret", "metallb-peer-passwords")},
    "04-copied-defaults": USUAL | CONFIG,
    "05-highly-available": USUAL
    | {("PodDisruptionBudget", "metallb-controller"), ("NetworkPolicy", "metallb-controller")},
    "06-names-and-labels": EDGE | {("ServiceAccount", "edge-controller-account")},
    "07-own-configmap": USUAL | PASSWORDS,
    "08-controller-only": SHARED | CONTROLLER | CONFIG,
    "09-without-memberlist": USUAL | CONFIG,
    "10-extras": USUAL,
    "20-monitoring": USUAL
    | monitors("controller", "speaker")
    | {("PrometheusRule", "metallb"), ("ConfigMap", "metallb-dashboard")},
    "21-bare-rbac": {("Deployment", "metallb-controller"), ("DaemonSet", "metallb-speaker")},
    "22-everything-off": SHARED | monitors(),
    "23-digests": USUAL,
}


def _id(path: Path) -> str:
    return path.name.removesuffix("-values.yaml")


every_file = pytest.mark.parametrize("values", VALUES, ids=_id)


def test_every_file_is_expected() -> None:
    assert sorted(EXPECTED) == sorted(_id(p) for p in VALUES)


@every_file
def test_objects(values: Path, tally: Callable[[str, int], None]) -> None:
    found = render(values)
    assert sorted((o["kind"], o["metadata"]["name"]) for o in found) == sorted(EXPECTED[_id(values)])
    tally("rendering: files of values", 1)
    tally("rendering: objects, of exactly these kinds and names", len(found))


@every_file
def test_helm_3_and_4_agree(values: Path) -> None:
    assert render(values, version=3) == render(values, version=4)


@every_file
@pytest.mark.parametrize("version", [3, 4])
def test_rendering_is_the_same_every_time(values: Path, version: int) -> None:
    first, second = (template(values, version=version) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout


@every_file
@pytest.mark.parametrize("version", [3, 4])
def test_lint(values: Path, version: int) -> None:
    told = helm("lint", CHART, "--strict", "-f", values, version=version)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "[WARNING]" not in told.stdout


@every_file
def test_no_blank_line_and_no_tab_is_left_by_a_template(values: Path) -> None:
    told = template(values, "--skip-tests").stdout  # those hold a program, with its blank lines
    assert [line for line in told.splitlines() if not line.strip() or "\t" in line] == []


@every_file
def test_every_object_of_a_namespace_names_it(values: Path) -> None:
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "PodSecurityPolicy"}
    for found in render(values):
        expected = None if found["kind"] in cluster_wide else "metallb-system"
        assert found["metadata"].get("namespace") == expected, found["kind"]


@every_file
def test_selectors_match_pods_and_nothing_else(values: Path) -> None:
    """Each selector matches the labels of its own pods; selectors of two workloads never meet."""
    found = render(values)
    workloads = [o for o in found if o["kind"] in ("Deployment", "DaemonSet")]
    for workload in workloads:
        selector = workload["spec"]["selector"]["matchLabels"].items()
        matched = [w for w in workloads if selector <= w["spec"]["template"]["metadata"]["labels"].items()]
        assert matched == [workload]


@every_file
def test_no_password_is_shown_but_in_secrets(values: Path) -> None:
    """Not in a ConfigMap, not in what Helm prints after an installation, not in the manifest around the Secret."""
    given = yaml.safe_load(values.read_text()) or {}
    passwords = [p["password"] for p in (given.get("configInline") or {}).get("peers") or [] if p.get("password")]
    shown = helm("install", "metallb", CHART, "-n", "metallb-system", "--dry-run=client", "-f", values, version=4)
    assert shown.returncode == 0, shown.stderr
    assert "NOTES:" in shown.stdout
    for password in passwords:
        assert password not in shown.stdout
        assert password not in shown.stderr


def test_bgp_file_has_a_password() -> None:
    """So that the test above cannot pass for want of one."""
    given = yaml.safe_load((CHART / "ci" / "03-bgp-values.yaml").read_text())
    assert any(p.get("password") for p in given["configInline"]["peers"])


def test_a_release_of_another_name() -> None:
    told = helm("template", "lb", CHART, "-n", "elsewhere", "-f", CHART / "ci" / "02-layer2-values.yaml")
    found = objects(told.stdout)
    assert one(found, "ConfigMap")["metadata"]["name"] == "lb-metallb"
    assert one(found, "DaemonSet")["metadata"]["namespace"] == "elsewhere"


def test_no_template_asks_the_cluster_the_clock_or_chance() -> None:
    """Rendering is a pure function of the values: GitOps controllers compare it all the time."""
    impure = ("lookup", "now", "randAlpha", "randNumeric", "randAscii", "randBytes", "randInt", "uuidv4", "genCA")
    impure += (
        "genSelfSignedCert",
        "genSignedCert",
        "genPrivateKey",
        "htpasswd",
        "bcrypt",
        "date ",
        "shuffle",
        "getHostByName",
    )
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text()
            code = " ".join(
                part.partition("}}")[0] for part in text.split("{{")[1:] if not part.startswith(("/*", "- /*"))
            )
            assert [word for word in impure if f" {word}" in f" {code} "] == [], path


def test_as_a_subchart(tmp_path: Path) -> None:
    """Under a parent chart: `global` and `enabled` come along, values stand below the chart's name."""
    parent: dict[str, Any] = {
        "apiVersion": "v2",
        "name": "platform",
        "version": "0.1.0",
        "dependencies": [
            {"name": "metallb", "version": "1.0.0", "repository": f"file://{CHART}", "condition": "metallb.enabled"}
        ],
    }
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    (tmp_path / "values.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"imageRegistry": "r.example.com", "somethingElse": 1},
                "metallb": {"enabled": True, "configInline": {"address-pools": []}},
            }
        )
    )
    update = helm("dependency", "update", tmp_path)
    assert update.returncode == 0, update.stderr
    told = helm("template", "platform", tmp_path)
    assert told.returncode == 0, told.stderr
    image = one(objects(told.stdout), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "r.example.com/metallb/controller:v1.0.0"
    off = helm("template", "platform", tmp_path, "--set", "metallb.enabled=false")
    assert off.returncode == 0, off.stderr
    assert objects(off.stdout) == []
