"""Helm against the corpus that the run-time parser is judged by: schema and templates agree with it.

Each document is given as `configInline`. What Helm cannot see, its files say themselves (`helm:`),
and the lists below say so once more, so that none slips in unnoticed.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster import toolchain
from tests.conftest import ROOT
from tests.vectors.config_corpus import Case, cases

#: Scalars that Helm re-types before anybody sees them; the schema refuses them and says "in quotes".
QUOTE = {
    "unquoted-text",
    "unquoted-password",
    "unquoted-label",
    "unquoted-zero-hold-time",
}
#: What Helm's YAML reader does away with before the schema is asked.
UNSEEN = {
    "second-document",
    "duplicate-key",
    "tag",
}

ACCEPT, REJECT = cases("accept"), cases("reject")


def _render(case: Case, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    values = tmp_path / "values.yaml"
    values.write_text("configInline:\n" + textwrap.indent(case.text, "  "), "utf-8")
    command = [str(toolchain.path("helm")), "template", "metallb", str(ROOT / "chart"), "-n", "x", "-f", str(values)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _id(case: Case) -> str:
    return case.name


def _who(case: Case) -> str:
    return case.get("helm").partition(":")[0]


def test_exceptions_are_listed() -> None:
    assert {c.name for c in (*ACCEPT, *REJECT) if _who(c) == "quote"} == QUOTE
    assert {c.name for c in (*ACCEPT, *REJECT) if _who(c) == "none"} == UNSEEN


@pytest.mark.parametrize("case", [c for c in ACCEPT if c.name not in UNSEEN], ids=_id)
def test_accepted(case: Case, tmp_path: Path, tally: Callable[[str, int], None]) -> None:
    result = _render(case, tmp_path)
    tally("configurations accepted by the parser, judged by Helm", 1)
    if case.name in QUOTE:
        assert result.returncode != 0
        assert case.get("helm-hint", "in quotes") in result.stderr
        return
    assert result.returncode == 0, result.stderr
    rendered = [d for d in yaml.safe_load_all(result.stdout) if d and d["kind"] == "ConfigMap"]
    maps = [d for d in rendered if "config" in d.get("data", {})]
    if yaml.safe_load(case.text) and any(yaml.safe_load(case.text).values()):
        assert len(maps) == 1


@pytest.mark.parametrize("case", [c for c in REJECT if c.name not in UNSEEN], ids=_id)
def test_rejected(case: Case, tmp_path: Path, tally: Callable[[str, int], None]) -> None:
    result = _render(case, tmp_path)
    tally("configurations refused by the parser, judged by Helm", 1)
    assert result.returncode != 0, "accepted by Helm, refused by the parser"
    said = result.stderr
    who = _who(case) or "schema"
    if who == "yaml":
        assert "YAML" in said
        return
    hint = case.get("helm-hint") or case.get("hint")
    path = case.get("helm-path") or case.get("path")
    lines = [line for line in said.splitlines() if hint in line]
    assert lines, said
    if who == "schema":
        parent = path.rpartition(".")[0]
        pointers = (
            {_pointer(path), _pointer(parent)} if "property" in hint or "properties" in hint else {_pointer(path)}
        )
        assert any(f"at '{pointer}'" in line for pointer in pointers for line in lines), said
    else:
        assert any(f"configInline.{path}" in line for line in lines), said


@pytest.mark.parametrize("wrong", ["configInLine", "configinline", "config-inline", "config"])
def test_config_inline_itself_misspelt(wrong: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(f"{wrong}: {{}}\n", "utf-8")
    command = [str(toolchain.path("helm")), "template", "metallb", str(ROOT / "chart"), "-f", str(values)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert f"at '/{wrong}': value must be 'it is spelt configInline'" in result.stderr


def _pointer(path: str) -> str:
    """peers[0].my-asn -> /configInline/peers/0/my-asn, as Helm writes it."""
    steps = path.split('["', 1)[0] if '["' in path else path
    flat = steps.replace("[", ".").replace("]", "")
    return "/configInline" + ("/" + flat.replace(".", "/") if flat else "")
