"""What the documents promise is there: links, make targets, versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.cluster import images

ROOT = images.ROOT
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "chart").glob("*.md")])
IDS = [str(d.relative_to(ROOT)) for d in DOCUMENTS]


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in re.findall(r"(?:^|`|\n)(?:[A-Z_]+=\S+ )*make ([a-z0-9-]+(?: [a-z0-9-]+)*)", document.read_text()):
        assert set(command.split()) <= targets, command


def test_one_version() -> None:
    chart = yaml.safe_load((ROOT / "chart/Chart.yaml").read_text())
    distributions = {
        re.search(r'^version = "(.+)"$', (images.CONTEXT / name / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
        for name in ("common", "controller", "speaker")
    }
    assert distributions == {chart["version"]} == {chart["appVersion"].removeprefix("v")}
    assert f"## {chart['version']}" in (ROOT / "CHANGELOG.md").read_text()
    for name in images.NAMES:
        dockerfile = (images.CONTEXT / name / "Dockerfile").read_text()
        assert f"ARG VERSION={chart['appVersion']}\n" in dockerfile
