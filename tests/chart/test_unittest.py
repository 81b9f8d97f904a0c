"""helm-unittest, run as Helm's plugin: each suite of chart/tests is one result here."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.chart.tools import CHART, plugin
from tests.cluster import toolchain

SUITES = sorted((CHART / "tests").glob("*/*_test.yaml"))
TEMPLATES = sorted(p for p in (CHART / "templates").rglob("*") if p.is_file() and not p.name.startswith("_"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ElementTree.Element]:
    """One run over all suites: title -> its JUnit element."""
    out = tmp_path_factory.mktemp("unittest") / "junit.xml"
    env = dict(os.environ, HELM_PLUGINS=str(plugin("unittest", "untt")))
    command = [str(toolchain.path("helm")), "unittest", "--strict", "-f", "tests/*/*_test.yaml"]
    command += ["-t", "JUnit", "-o", str(out), str(CHART)]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert out.exists(), told.stdout + told.stderr
    return {s.get("name", ""): s for s in ElementTree.parse(out).getroot().iter("testsuite")}


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_suite(suite: Path, report: dict[str, ElementTree.Element], tally: Callable[[str, int], None]) -> None:
    title = re.search(r"^suite: (.*)$", suite.read_text(), re.MULTILINE)
    assert title, f"{suite} has no title"
    found = report.get(title[1])
    assert found is not None, f"no result of {suite.name} among {sorted(report)}"
    behaviours = suite.read_text().count("\n  - it: ")
    assert int(found.get("tests", "0")) == behaviours > 0
    bad = [f"{c.get('name')}: {''.join(c.itertext()).strip()}" for c in found.iter("testcase") if len(c)]
    assert not bad, "\n".join(bad)
    tally("helm-unittest: suites", 1)
    tally("helm-unittest: behaviours (it)", behaviours)


def test_every_template_has_a_suite() -> None:
    named = "\n".join(p.read_text() for p in SUITES)
    missing = [str(t.relative_to(CHART)) for t in TEMPLATES if str(t.relative_to(CHART)) not in named]
    assert not missing


def test_titles_are_unique() -> None:
    titles = [re.findall(r"^suite: (.*)$", p.read_text(), re.MULTILINE) for p in SUITES]
    assert all(len(t) == 1 for t in titles)
    assert len({t[0] for t in titles}) == len(SUITES)
