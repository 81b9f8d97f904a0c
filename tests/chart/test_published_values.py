"""Values files that people published: they render here too, and mean what 0.12.1's chart made of them.

The corpus is no part of the repository: a checkout without it collects nothing here.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from metallb_common.config.parse import parse
from tests.cluster import toolchain
from tests.conftest import ROOT
from tests.vectors.published import CORPUS, expected, ours, theirs

#: Files with keys of other charts for MetalLB, which 0.12.1's chart passed over in silence, and what
#: we say. Every key of 0.11.0 and 0.12.1 themselves is accepted.
FOREIGN = {
    "04-ahinko-helm-release.yaml": "it belongs under prometheus",
    "06-billimek-metallb.yaml": "it is prometheus.podMonitor.enabled",
    "07-blackjid-metallb-helm-release.yaml": "it is prometheus.podMonitor.enabled",
    "10-haraldkoch-helm-release.yaml": "it belongs under prometheus",
    "13-jr0dd-helm-release.yaml": "this speaker speaks BGP and BFD itself",
    "17-rust84-metallb.yaml": "it is prometheus.podMonitor.enabled",
    "19-wrmilling-metallb.yaml": "it is prometheus.podMonitor.enabled",
    "23-modulus-values.yaml": "it is controller.serviceAccount and speaker.serviceAccount",
    "25-mesosphere-metallb-1.yaml": "it is resources.requests",
    "26-tommyknows-helm.yaml": "it is spelt configInline",
    "27-asauerwein-fleet.yaml": "put it into a Secret, and its name into secretName",
    "32-shraderdm-values.yaml": "it is rbac, beside controller",
    "34-billimek-values.yaml": "additional properties 'keel' not allowed",
}

FILES, SETS = expected("values.expected.jsonl"), expected("helm-set.jsonl")


def _helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(toolchain.path("helm")), "template", "metallb", str(ROOT / "chart"), "-n", "x", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _config_of(rendered: str) -> str | None:
    maps = [d for d in yaml.safe_load_all(rendered) if d and d["kind"] == "ConfigMap" and "config" in d.get("data", {})]
    return maps[0]["data"]["config"] if maps else None


def _same_meaning(record: dict[str, Any], rendered: str) -> None:
    text = _config_of(rendered)
    if record.get("config") is None:
        assert text is None
        return
    assert text is not None
    parsed = parse(text)
    assert parsed.config is not None, parsed.errors
    mine, original = ours(parsed.config), theirs(record)
    for name, pool in mine["pools"].items():
        if pool["avoid-buggy-ips"]:
            pool["size"] = original["pools"][name]["size"]
    original["peers"] = sorted(_without_password(p) for p in original["peers"])
    assert mine == original


def _without_password(peer: str) -> str:
    """Rendering moves passwords into a Secret."""
    return json.dumps({k: v for k, v in json.loads(peer).items() if k != "password"}, sort_keys=True)


if FILES:

    @pytest.mark.parametrize("record", FILES, ids=lambda r: str(r["file"]).removesuffix(".yaml"))
    def test_file(record: dict[str, Any]) -> None:
        name, original = record["file"], record["chart_0_12_1"]
        result = _helm("-f", str(CORPUS / "values" / name))
        if name in FOREIGN:
            assert result.returncode != 0
            assert FOREIGN[name] in result.stderr
        elif original["render"] and original.get("valid") is not False:
            assert result.returncode == 0, result.stderr
            _same_meaning(original, result.stdout)
        elif original["render"]:
            assert result.returncode != 0, "a configuration that 0.12.1 refuses was rendered"
            assert "/configInline/" in result.stderr
        elif "serviceAccount must be defined" in json.dumps(original):
            assert result.returncode == 0, result.stderr  # ours has the defaults of 0.11
        else:
            assert result.returncode != 0

    def test_every_file_is_judged() -> None:
        assert {r["file"] for r in FILES} == {p.name for p in (CORPUS / "values").iterdir()}
        assert FOREIGN.keys() <= {r["file"] for r in FILES}

    @pytest.mark.parametrize("record", SETS, ids=lambda r: str(r["source"]).replace(" ", "-"))
    def test_set(record: dict[str, Any]) -> None:
        original = record["chart_0_12_1"]
        umbrella = any(pair.startswith("metallb.") for pair in record["set"])
        arguments = [part for pair in record["set"] for part in ("--set", pair)]
        result = _helm(*arguments)
        if umbrella:  # values for a parent chart: 0.12.1's chart took them and configured nothing
            assert result.returncode != 0
            assert "for a parent chart that depends on this one" in result.stderr
        elif original["render"] and original.get("valid") is not False:
            assert result.returncode == 0, result.stderr
            _same_meaning(original, result.stdout)
        else:
            assert result.returncode != 0
