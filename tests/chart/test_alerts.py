"""The alerts of the PrometheusRule, judged by promtool: each fires when it should, and at no other time."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chart.tools import one, render
from tests.cluster import toolchain

Series = dict[str, str]

MINE = {"alert": "Mine", "expr": 'count by (job) (up{job="metallb"} == 0) > 1', "for": "2m"}
RULES = {"prometheus": {"prometheusRule": {"enabled": True, "extraAlerts": [MINE]}}}

#: Labels that a PodMonitor's targets have.
POD = 'job="metallb", namespace="metallb-system", pod="p"'
STALE = f"metallb_k8s_client_config_stale_bool{{{POD}}}"
LOADED = f"metallb_k8s_client_config_loaded_bool{{{POD}}}"
SESSION = f'metallb_bgp_session_up{{{POD}, peer="192.0.2.1"}}'
USED = f'metallb_allocator_addresses_in_use_total{{{POD}, pool="a"}}'
TOTAL = f'metallb_allocator_addresses_total{{{POD}, pool="a"}}'
#: A second controller that leads no longer, scraped as well: it says less.
OTHER_USED, OTHER_TOTAL = (s.replace('pod="p"', 'pod="q"') for s in (USED, TOTAL))


def usage(percent: int) -> Series:
    return {USED: f"{percent}x10", TOTAL: "100x10"}


POOL_ALERTS = [f"MetalLBAddressPoolUsage{n}Percent" for n in (75, 85, 95)]

#: What is scraped once a minute, the minute at which is looked, and the alerts that fire then: all of them.
CASES: dict[str, tuple[Series, int, list[str]]] = {
    "all is well": ({STALE: "0x10", LOADED: "1x10", SESSION: "1x10"} | usage(75), 10, []),
    "stale for less than a minute": ({STALE: "0 0 1 1"}, 2, []),
    "stale for a minute": ({STALE: "0 0 1 1"}, 3, ["MetalLBStaleConfig"]),
    "stale no longer": ({STALE: "1 1 1 0"}, 3, []),
    "stale, of another job": ({STALE.replace('job="metallb"', 'job="other"'): "1x10"}, 10, []),
    "never loaded": ({LOADED: "0x10"}, 1, ["MetalLBConfigNotLoaded"]),
    "not loaded at first": ({LOADED: "0 1 1"}, 2, []),
    "one of two not loaded": ({LOADED: "1x9", LOADED.replace('"p"', '"q"'): "0x9"}, 9, ["MetalLBConfigNotLoaded"]),
    "76 %": (usage(76), 0, POOL_ALERTS[:1]),
    "85 %": (usage(85), 10, POOL_ALERTS[:1]),
    "86 %": (usage(86), 10, POOL_ALERTS[:2]),
    "96 %": (usage(96), 10, POOL_ALERTS),
    "full for less than a minute": ({USED: "99 100", TOTAL: "100 100"}, 1, POOL_ALERTS),
    "full": (usage(100), 10, ["MetalLBAddressPoolExhausted", *POOL_ALERTS]),
    "more than full: the pool has shrunk": (usage(120), 10, ["MetalLBAddressPoolExhausted", *POOL_ALERTS]),
    "a pool without addresses": ({USED: "0x10", TOTAL: "0x10"}, 10, ["MetalLBAddressPoolExhausted"]),
    "counted by two processes": (usage(80) | {OTHER_USED: "80x10", OTHER_TOTAL: "100x10"}, 10, POOL_ALERTS[:1]),
    "another pool is full": (
        usage(10) | {s.replace('"a"', '"b"'): v for s, v in usage(100).items()},
        10,
        ["MetalLBAddressPoolExhausted", *POOL_ALERTS],
    ),
    "a session is down": ({SESSION: "0x10"}, 1, ["MetalLBBGPSessionDown"]),
    "a session was down for less than a minute": ({SESSION: "1 0 1"}, 2, []),
    "an alert of the user's": ({f'up{{{POD}, instance="{i}"}}': "0x10" for i in "ab"}, 2, ["Mine"]),
    "an alert of the user's, too early": ({f'up{{{POD}, instance="{i}"}}': "0x10" for i in "ab"}, 1, []),
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    """The program; prepared as root, it is Debian's."""
    found = shutil.which("promtool")
    if found is None:
        toolchain.packages(["monitoring"])
        found = shutil.which("promtool")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Prometheus Operator gives to Prometheus."""
    path = tmp_path_factory.mktemp("rules") / "rules.json"
    path.write_text(json.dumps(one(render(RULES), "PrometheusRule")["spec"]))
    return path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=60)


def alerts_of(rules: Path) -> dict[str, dict[str, Any]]:
    [group] = json.loads(rules.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_rules_are_valid(promtool: str, rules: Path) -> None:
    told = run(promtool, "check", "rules", "--lint-fatal", rules)
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"{len(alerts_of(rules))} rules found" in told.stdout


def test_every_alert_fires_somewhere_and_elsewhere_not(rules: Path) -> None:
    fired = [set(names) for _, _, names in CASES.values()]
    assert set.union(*fired) == set(alerts_of(rules))
    assert set.intersection(*fired) == set()


def test_every_alert_of_ours_explains_itself(rules: Path) -> None:
    ours = {name: rule for name, rule in alerts_of(rules).items() if name != "Mine"}
    assert len(ours) == 7
    for name, rule in ours.items():
        assert rule["labels"]["severity"] in ("warning", "alert"), name
        for key in ("summary", "description"):
            assert len(rule["annotations"][key].split()) > 3, name
    texts = [r["annotations"][key] for r in ours.values() for key in ("summary", "description")]
    assert len(set(texts)) == len(texts), "two alerts say the same"


@pytest.mark.parametrize("case", CASES)
def test_alerts(promtool: str, rules: Path, tmp_path: Path, case: str, tally: Callable[[str, int], None]) -> None:
    """At that minute exactly these alerts fire, each of them once."""
    series, minute, firing = CASES[case]
    tests = [
        {
            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": "{}", "value": int(name in firing)}],
        }
        for name in alerts_of(rules)
    ]
    tally("promtool: alerts judged, fires or does not", len(tests))
    told = judge(promtool, rules, tmp_path, series, {"promql_expr_test": tests})
    assert told.returncode == 0, told.stdout + told.stderr


def judge(
    promtool: str, rules: Path, folder: Path, series: Series, tests: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    group = {"interval": "1m", "input_series": inputs} | tests
    path = folder / "test.json"  # JSON is YAML
    path.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [group]}))
    return run(promtool, "test", "rules", path)


def test_what_an_alert_says(promtool: str, rules: Path, tmp_path: Path) -> None:
    """Labels and texts as a pager shows them: which pool, a rounded share, what to look at."""
    labels = {"severity": "warning", "job": "metallb", "namespace": "metallb-system", "pool": "a"}
    said = {
        "summary": "A pool is more than 75 % in use",
        "description": "Pool a is 77 % in use, more than 75 %.",
    }
    expected = {"alertname": POOL_ALERTS[0], "eval_time": "1m"}
    expected |= {"exp_alerts": [{"exp_labels": labels, "exp_annotations": said}]}  # type: ignore[dict-item]
    told = judge(promtool, rules, tmp_path, {USED: "10x5", TOTAL: "13x5"}, {"alert_rule_test": [expected]})
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_wrong_expectation_fails(promtool: str, rules: Path, tmp_path: Path) -> None:
    """Or the tests above prove nothing."""
    wrong = [{"expr": 'count(ALERTS{alertstate="firing"})', "eval_time": "5m", "exp_samples": []}]
    assert judge(promtool, rules, tmp_path, usage(76), {"promql_expr_test": wrong}).returncode != 0
