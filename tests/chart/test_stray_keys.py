"""A key that the chart does not have: it is named with its path, and the answer says what to do instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, ROOT, helm

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def refusal(*sets: str, version: int = 3) -> str:
    arguments = [part for pair in sets for part in ("--set", pair)]
    told = helm("template", "metallb", CHART, *arguments, version=version)
    assert told.returncode != 0, "rendered"
    return told.stderr


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("given", "where", "key", "known"),
    [
        ("keel.policy=all", "", "keel", "controller, enabled, existingConfigMap"),
        ("prometheus.podmonitor.enabled=true", "/prometheus", "podmonitor", "namespace, podMonitor, prometheusRule"),
        ("controller.image.path=x", "/controller/image", "path", "digest, pullPolicy, repository, tag"),
        ("speaker.memberlist.on=true", "/speaker/memberlist", "on", "enabled, mlBindPort"),
        ("controller.hostAliases=x", "/controller", "hostAliases", "that helm show values lists"),
        ("configInline.adress-pools[0].name=a", "/configInline", "adress-pools", "address-pools, bfd-profiles"),
        ("configInline.address-pools[0].adresses=a", "/configInline/address-pools/0", "adresses", "addresses, auto-"),
        ("configInline.peers[0].weight=1", "/configInline/peers/0", "weight", "bfd-profile, "),
    ],
)
def test_a_stray_key_is_named_and_answered(given: str, where: str, key: str, known: str, version: int) -> None:
    said = refusal(given, version=version)
    if key:
        assert f"at '{where}': additional properties '{key}' not allowed" in said
    if known:
        [answer] = [
            line for line in said.splitlines() if f"at '{where}': value must be 'a mapping with the keys" in line
        ]
        assert known in answer
        assert "correct or remove any other" in answer


@pytest.mark.parametrize(
    ("given", "where", "answer"),
    [
        ("frr.enabled=true", "/frr", "it is speaker.frr"),
        ("image.tag=x", "/image", "it is controller.image and speaker.image"),
        ("replicaCount=2", "/replicaCount", "it is controller.replicas"),
        ("tolerations[0].key=x", "/tolerations", "it is controller.tolerations and speaker.tolerations"),
        ("loadbalancerClass=x", "/loadbalancerClass", "it is spelt loadBalancerClass"),
        ("configinline.peers=x", "/configinline", "it is spelt configInline"),
        ("address-pools[0].name=a", "/address-pools", "it belongs under configInline"),
        ("speaker.loglevel=info", "/speaker/loglevel", "it is spelt logLevel"),
    ],
)
def test_a_key_that_is_meant_is_told(given: str, where: str, answer: str) -> None:
    said = refusal(given)
    assert f"at '{where}': value must be '{answer}'" in said
    assert "not allowed" not in said


@pytest.mark.parametrize("version", [3, 4])
def test_defaults_of_the_original_in_place_of_ours(version: int, tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` from its release: Helm keeps the old chart's defaults. The way out is told."""
    chart = tmp_path / "metallb"
    shutil.copytree(CHART, chart)
    values: dict[str, Any] = {}
    for key, about in yaml.safe_load((ROOT / "schema" / "official-values.yaml").read_text()).items():
        here = values
        *steps, last = key.split(".")
        for step in steps:
            here = here.setdefault(step, {})
        here[last] = about["default"]
    (chart / "values.yaml").write_text(yaml.safe_dump(values))
    told = helm("template", "metallb", chart, version=version)
    assert told.returncode != 0
    assert "with helm upgrade --reuse-values there are none; use --reset-then-reuse-values" in told.stderr


def closed(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            yield path, schema
        for key, value in schema.items():
            yield from closed(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for i, value in enumerate(schema):
            yield from closed(value, f"{path}/{i}")


def test_every_closed_object_has_an_answer() -> None:
    found = list(closed(SCHEMA))
    assert len(found) > 30
    for path, schema in found:
        answers = [schema, *schema.get("allOf", [])]
        known = [a["if"]["propertyNames"]["enum"] for a in answers if "propertyNames" in a.get("if", {})]
        assert known == [list(schema["properties"])], path
