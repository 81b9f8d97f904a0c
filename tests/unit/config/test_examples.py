"""The examples in the documents are right: each is judged as a user's file would be."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

from metallb_common.config.check import main
from metallb_common.config.parse import parse
from metallb_common.config.structure import kebab
from tests.conftest import ROOT


def yaml_blocks(text: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def blocks(document: str) -> list[str]:
    return yaml_blocks((ROOT / document).read_text("utf-8"))


@pytest.mark.parametrize("text", blocks("docs/configuration.md"))
def test_configuration_examples(text: str) -> None:
    parsed = parse(text)
    assert parsed.errors == ()
    assert parsed.warnings == ()
    assert parsed.config is not None
    assert parsed.config.pools


@pytest.mark.parametrize("text", blocks("docs/metallb-config.md"))
def test_pipeline_examples_are_yaml(text: str) -> None:
    assert isinstance(yaml.safe_load(text), dict)


CHECKED = ["Config", "ConfigMap", "HelmValues", "HelmRelease", "Application", "ConfigMap"]


def section(document: str, title: str) -> str:
    text = (ROOT / document).read_text("utf-8")
    return re.split(r"\n##+ ", text.partition(f"## {title}\n")[2])[0]


def test_every_kind_that_is_judged_has_an_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = yaml_blocks(section("docs/metallb-config.md", "check"))
    assert len(examples) == len(CHECKED)
    for text, kind in zip(examples, CHECKED, strict=True):
        file = tmp_path / "example.yaml"
        file.write_text(text, "utf-8")
        assert main(["check", "--json", str(file)]) == 0
        (record,) = json.loads(capsys.readouterr().out)
        assert (record["kind"], record["valid"], record["warnings"]) == (kind, True, []), text
        assert record["config"]["pools"][0]["addresses"][0] == "192.0.2.0/24"


def test_the_example_of_what_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = yaml_blocks(section("docs/metallb-config.md", "convert"))
    file = tmp_path / "example.yaml"
    file.write_text(there, "utf-8")
    assert main(["convert", str(file)]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (here, "")


def test_generated_files_are_fresh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And `--check` sees it when one is not."""
    monkeypatch.syspath_prepend(str(ROOT / "schema"))
    spec = spec_from_file_location("build", ROOT / "schema/build.py")
    assert spec is not None
    assert spec.loader is not None
    build = module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.main(["--check"]) == 0
    stale = {path: content + "x" for path, content in build.outputs().items()}
    monkeypatch.setattr(build, "outputs", lambda: stale)
    assert build.main(["--check"]) == 1
    assert capsys.readouterr().out.count("is stale") == len(stale)


def test_every_key_is_described() -> None:
    source = yaml.safe_load((ROOT / "schema/config.schema.yaml").read_text("utf-8"))
    objects = [source, *source["definitions"].values()]
    for found in objects:
        for key, value in found.get("properties", {}).items():
            assert value.get("description"), key
            assert key == kebab(key)
            target = source["definitions"].get(str(value.get("$ref", "")).removeprefix("#/definitions/"), value)
            assert value.get("hint") or target.get("hint"), key
        if "properties" in found:
            assert found["additionalProperties"] is False
