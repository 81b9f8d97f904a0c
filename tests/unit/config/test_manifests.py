"""`metallb-config check`: where configurations are found, what is printed, and the exit status."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from metallb_common.config.check import main
from tests.conftest import ROOT
from tests.vectors.config_corpus import cases

SCHEMA = json.loads((ROOT / "docs/metallb-config.schema.json").read_text("utf-8"))

GOOD = """\
address-pools:
- name: a
  protocol: layer2
  addresses: [192.0.2.0-192.0.2.4, "2001:DB8::/127"]
"""
BAD = GOOD.replace("layer2", "arp")

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data:
  config: |
%s
"""


def config_map(text: str) -> str:
    return CONFIG_MAP % textwrap.indent(text, "    ").rstrip()


def values(text: str) -> str:
    return "controller: {logLevel: info}\nconfigInline:\n" + textwrap.indent(text, "  ")


def helm_release(text: str) -> str:
    head = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: lb}\nspec:\n  values:\n"
    return head + textwrap.indent(values(text), "    ")


def application(text: str, key: str = "values: |") -> str:
    head = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: lb}\nspec:\n"
    return head + f"  source:\n    helm:\n      {key}\n" + textwrap.indent(values(text), "        ")


def application_sources(text: str) -> str:
    head = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: lb}\nspec:\n"
    body = textwrap.indent(values(text), "          ")
    return head + "  sources:\n  - {path: x}\n  - helm:\n        valuesObject:\n" + body


HOLDERS = {
    "Config": lambda text: text,
    "ConfigMap": config_map,
    "HelmValues": values,
    "HelmRelease": helm_release,
    "Application": application,
}


def check(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and records; the records are valid by the published schema."""
    file = tmp_path / "file.yaml"
    file.write_text(text, "utf-8")
    status = main(["check", "--json", str(file)])
    records = json.loads(capsys.readouterr().out)
    Draft7Validator(SCHEMA).validate(records)
    return status, records


@pytest.mark.parametrize("kind", HOLDERS)
def test_found_in_every_kind(kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, (record,) = check(capsys, tmp_path, HOLDERS[kind](GOOD))
    assert status == 0
    assert (record["kind"], record["document"], record["valid"]) == (kind, 1, True)
    assert record["config"]["pools"][0]["addresses"] == ["192.0.2.0/30", "192.0.2.4/32", "2001:db8::/127"]


@pytest.mark.parametrize("kind", HOLDERS)
def test_lines_are_the_files(kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "# a comment\n---\n" + HOLDERS[kind](BAD)
    status, (record,) = check(capsys, tmp_path, text)
    assert status == 1
    (error,) = record["errors"]
    assert error["path"] == "address-pools[0].protocol"
    assert text.splitlines()[error["line"] - 1].strip() == "protocol: arp"
    assert record["config"] is None


def test_other_places_of_an_application(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for text in (application(GOOD, "valuesObject:"), application_sources(GOOD)):
        status, (record,) = check(capsys, tmp_path, text)
        assert (status, record["kind"], record["valid"]) == (0, "Application", True)
        assert record["config"]["pools"]


def test_values_for_a_parent_chart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "ingress: {}\nmetallb:\n" + textwrap.indent(values(BAD), "  ")
    status, (record,) = check(capsys, tmp_path, text)
    assert (status, record["kind"]) == (1, "HelmValues")


def parent(text: str) -> str:
    """Values for a chart that has ours as a dependency."""
    return "ingress: {}\nmetallb:\n" + textwrap.indent(values(text), "  ")


PARENTS = {
    "HelmValues": parent,
    "HelmRelease": lambda text: (
        "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: all}\nspec:\n  values:\n"
        + textwrap.indent(parent(text), "    ")
    ),
    "Application, object": lambda text: (
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nspec:\n  source:\n    helm:\n      valuesObject:\n"
        + textwrap.indent(parent(text), "        ")
    ),
    "Application, text": lambda text: (
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nspec:\n  source:\n    helm:\n      values: |\n"
        + textwrap.indent(parent(text), "        ")
    ),
}


@pytest.mark.parametrize("holder", PARENTS)
def test_values_for_a_parent_chart_in_every_holder(
    holder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = PARENTS[holder](BAD)
    status, (record,) = check(capsys, tmp_path, text)
    assert (status, record["kind"]) == (1, holder.partition(",")[0])
    (error,) = record["errors"]
    assert text.splitlines()[error["line"] - 1].strip() == "protocol: arp"
    status, (record,) = check(capsys, tmp_path, PARENTS[holder](GOOD))
    assert (status, len(record["config"]["pools"])) == (0, 1)
    status, (record,) = check(capsys, tmp_path, PARENTS[holder](GOOD).replace("configInline", "configInLine"))
    assert (status, record["errors"][0]["fix"]) == (1, "it is spelt configInline")


@pytest.mark.parametrize("first", [GOOD, BAD])
@pytest.mark.parametrize("second", [GOOD, BAD])
def test_every_source_of_an_application_is_judged(
    first: str, second: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = application_sources(first) + "  - helm:\n      values: |\n" + textwrap.indent(parent(second), "        ")
    status, records = check(capsys, tmp_path, text + "---\n" + GOOD)
    assert [(r["document"], r["kind"], r["valid"]) for r in records] == [
        (1, "Application", first == GOOD),
        (2, "Application", second == GOOD),
        (3, "Config", True),
    ]
    assert status == (BAD in (first, second))


def test_lists_and_many_documents(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    items = "".join("- " + textwrap.indent(config_map(text), "  ").lstrip() for text in (GOOD, BAD))
    text = f"apiVersion: v1\nkind: List\nitems:\n{items}---\n{values(GOOD)}---\n---\nkind: Service\napiVersion: v1\n"
    status, records = check(capsys, tmp_path, text)
    assert status == 1
    assert [(r["document"], r["kind"], r["valid"]) for r in records] == [
        (1, "ConfigMap", True),
        (2, "ConfigMap", False),
        (3, "HelmValues", True),
        (4, "Service", True),
    ]
    assert records[3]["warnings"][0]["reason"] == "skipped: Service holds no configuration of this kind"


def test_json_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config": BAD}}, indent=1)
    status, (record,) = check(capsys, tmp_path, text)
    assert status == 1
    assert '"config"' in text.splitlines()[record["errors"][0]["line"] - 1]


def test_helm_retypes_but_a_config_map_does_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = GOOD.replace("name: a", "name: 0123")
    assert check(capsys, tmp_path, config_map(text))[0] == 0
    status, (record,) = check(capsys, tmp_path, values(text))
    assert status == 1
    assert record["errors"][0]["reason"].endswith('Helm reads "0123" as a number, not as text')
    assert record["errors"][0]["fix"] == "quote it"


def test_misspelt_config_inline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, (record,) = check(capsys, tmp_path, values(GOOD).replace("configInline", "configInLine"))
    assert status == 1
    assert record["errors"][0]["fix"] == "it is spelt configInline"


def test_wrong_key_of_a_config_map(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, (record,) = check(capsys, tmp_path, config_map(GOOD).replace("config: |", "config.yaml: |"))
    assert status == 0
    assert record["warnings"][0]["fix"] == "only the key 'config' is read, not 'config.yaml': rename it"
    assert record["warnings"][0]["line"] == 5
    assert record["config"]["pools"] == []


def test_config_map_must_hold_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, (record,) = check(capsys, tmp_path, config_map(GOOD).replace("config: |", "config:"))
    assert status == 1
    assert record["errors"][0]["fix"] == "write config: |"


def test_duplicate_key_in_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, (record,) = check(capsys, tmp_path, values(GOOD) + "  peers: []\n  peers: []\n")
    assert status == 1
    assert record["errors"][0]["path"] == "configInline.peers"


def test_syntax_error_after_good_documents(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, records = check(capsys, tmp_path, GOOD + "---\n: : [\n")
    assert status == 1
    assert [r["valid"] for r in records] == [True, False]


def test_passwords_are_redacted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "peers: [{my-asn: 1, peer-asn: 2, peer-address: 192.0.2.1, password: s3cr3t}]\n"
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert main(["check", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "s3cr3t" not in out
    assert json.loads(out)[0]["config"]["peers"][0]["password"] == "<redacted>"


def test_text_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BAD.replace("192.0.2.0-192.0.2.4", "192.0.2.9/24") + "---\napiVersion: v1\nkind: Pod\n")
    assert main(["check", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f'{file}:3: address-pools[0].protocol: unknown protocol "arp" (layer2 or bgp)',
        f'{file}:4: address-pools[0].addresses[0]: warning: "192.0.2.9/24" has host bits set: it is taken as the whole '
        "network 192.0.2.0/24, 192.0.2.0 to 192.0.2.255 (if that is meant, write 192.0.2.0/24)",
    ]
    assert captured.err == f"{file}:6: skipped: Pod holds no configuration of this kind\n"


def test_unreadable_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(BAD)
    assert main(["check", str(tmp_path / "none.yaml"), str(good)]) == 2
    captured = capsys.readouterr()
    assert "none.yaml: could not read: No such file or directory" in captured.err
    assert "unknown protocol" in captured.out
    status = main(["check", "--json", str(tmp_path)])
    records = json.loads(capsys.readouterr().out)
    Draft7Validator(SCHEMA).validate(records)
    assert status == 2
    assert records[0]["valid"] is False


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert main(["check", "-"]) == 1
    assert capsys.readouterr().out.startswith("-:3: address-pools[0].protocol")


def test_whole_corpus_by_the_program(tmp_path: Path) -> None:
    """The console script itself, over the corpus: one record for each document, by the published schema."""
    program = Path(sys.executable).with_name("metallb-config")
    files = []
    for kind in ("accept", "reject"):
        for case in cases(kind):
            if case.name == "unknown-key-root":
                continue  # `speaker: {}` alone is taken for Helm values, and skipped
            path = tmp_path / f"{kind}-{case.name}.yaml"
            path.write_text(case.text, "utf-8")
            files.append(str(path))
    result = subprocess.run([str(program), "check", "--json", *files], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    records = json.loads(result.stdout)
    Draft7Validator(SCHEMA).validate(records)
    assert {r["file"] for r in records} == set(files)
    for record in records:
        expected = "/accept-" in record["file"]
        assert record["valid"] is expected, record
        assert (record["config"] is not None) is expected
