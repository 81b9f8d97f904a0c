"""chart-testing, as ct.yaml sets it up; the rest of the project's own checks of the package's surface."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.chart.tools import CHART, ROOT, plugin
from tests.cluster import toolchain


def test_ct_lint(tmp_path: Path, tally: Callable[[str, int], None]) -> None:
    """Every file of chart/ci is linted, and the suites run as an additional command."""
    home = tmp_path / "bin"
    home.mkdir()
    (home / "helm").symlink_to(toolchain.path("helm"))
    env = dict(os.environ, PATH=f"{home}:{os.environ['PATH']}", HELM_PLUGINS=str(plugin("unittest", "untt")))
    command = [str(toolchain.path("ct")), "lint", "--config", "ct.yaml", "--charts", "chart"]
    told = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    said = told.stdout + told.stderr
    assert told.returncode == 0, said
    assert "All charts linted successfully" in said
    for values in (CHART / "ci").glob("*-values.yaml"):
        assert values.name in said
        tally("ct lint: files of values", 1)
    assert re.search(r"Tests: +\d+ passed, \d+ total", said)


def test_files_of_ci_are_numbered_and_say_what_they_prove() -> None:
    files = sorted((CHART / "ci").iterdir())
    assert [p.name[:2] for p in files] == [f"{i:02d}" for i in range(1, len(files) + 1)]
    for path in files:
        assert re.fullmatch(r"\d\d-[a-z0-9-]+-values\.yaml", path.name)
        assert path.read_text().startswith("# ")


def test_readme_is_fresh(tmp_path: Path) -> None:
    """helm-docs, on a copy, gives the README that is committed; no description in it is blank."""
    command = [
        str(toolchain.path("helm-docs")),
        "--chart-search-root",
        str(CHART),
        "--dry-run",
        "--sort-values-order=file",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    committed = (CHART / "README.md").read_text()
    assert told.stdout.strip() == committed.strip(), "run `make generate`"
    rows = [line for line in committed.splitlines() if line.startswith("| ") and " | " in line]
    assert len(rows) > 100
    assert [r for r in rows if r.rstrip().endswith("|  |") or "| `nil` |  |" in r] == []


def test_table_of_the_originals_values_is_fresh() -> None:
    told = subprocess.run(
        [sys.executable, "schema/values_table.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


def test_chart_says_what_it_is() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["name"], chart["apiVersion"], chart["type"]) == ("metallb", "v2", "application")
    assert chart["appVersion"] == f"v{chart['version']}"
    assert "dependencies" not in chart
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert {i["name"]: i["image"] for i in images} == {
        name: f"{values[name]['image']['repository']}:{chart['appVersion']}" for name in ("controller", "speaker")
    }
    changes = yaml.safe_load(chart["annotations"]["artifacthub.io/changes"])
    assert all(c["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security") for c in changes)


@pytest.fixture
def dashboard() -> dict[str, object]:
    found: dict[str, object] = json.loads((CHART / "dashboards" / "metallb.json").read_text())
    return found


#: What both processes expose, beside the metrics of every process.
METRICS = {
    "metallb_allocator_addresses_total",
    "metallb_allocator_addresses_in_use_total",
    "metallb_k8s_client_updates_total",
    "metallb_k8s_client_update_errors_total",
    "metallb_k8s_client_config_loaded_bool",
    "metallb_k8s_client_config_stale_bool",
    "metallb_speaker_announced",
    "metallb_layer2_requests_received",
    "metallb_layer2_responses_sent",
    "metallb_layer2_gratuitous_sent",
    "metallb_bgp_session_up",
    "metallb_bgp_announced_prefixes_total",
    "metallb_bgp_pending_prefixes_total",
    "metallb_bfd_session_up",
}


def test_dashboard_and_alerts_use_metrics_that_exist(dashboard: dict[str, object]) -> None:
    rule = (CHART / "templates" / "monitoring" / "prometheusrule.yaml").read_text()
    used = set(re.findall(r"\bmetallb_[a-z0-9_]+", json.dumps(dashboard) + rule))
    assert used == METRICS


def test_dashboard_panels_are_titled_and_described(dashboard: dict[str, object]) -> None:
    panels = dashboard["panels"]
    assert isinstance(panels, list)
    assert len({p["id"] for p in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert [t for t in panel["targets"] if not t["expr"]] == []
