"""Every value of the original's charts: accepted here, and with its old effect.

schema/official-values.yaml lists them; each has one sample below that differs from its default, and
what must be seen in the rendering. A key without a sample, or a sample without a key, fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, ROOT, Object, container, environment, one, render

OFFICIAL: dict[str, Any] = yaml.safe_load((ROOT / "schema" / "official-values.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

Probe = Callable[[list[Object]], Any]
PSP = ("-a", "policy/v1beta1/PodSecurityPolicy")


def deployment(found: list[Object]) -> Object:
    return one(found, "Deployment")


def daemonset(found: list[Object]) -> Object:
    return one(found, "DaemonSet")


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def kinds(found: list[Object]) -> list[str]:
    return [o["kind"] for o in found]


def names(found: list[Object], kind: str) -> list[str]:
    return sorted(o["metadata"]["name"] for o in found if o["kind"] == kind)


def rules(found: list[Object]) -> list[Object]:
    out: list[Object] = one(found, "PrometheusRule")["spec"]["groups"][0]["rules"]
    return out


def alert(found: list[Object], name: str) -> Object:
    return next((r for r in rules(found) if r["alert"] == name), {})


#: key -> (sample, what else is set, what is looked at, what it must be)
Case = tuple[Any, dict[str, Any], Probe, Any]

MONITOR = {"prometheus.podMonitor.enabled": True}
RULE = {"prometheus.prometheusRule.enabled": True}
POOLS = {"address-pools": [{"name": "a", "protocol": "layer2", "addresses": ["192.0.2.0/24"]}]}

#: Prometheus' labels, unlike Kubernetes', hold any text: of any length, and templates of Prometheus' own.
ALERT_LABELS = {
    "severity": "info",
    "team": "Network Ops",
    "runbook_url": "https://wiki.example.com/lb?alert=stale#what-to-do-when-the-configuration-is-not-taken",
    "where": "{{ $labels.instance }}",
}

CASES: dict[str, Case] = {
    "imagePullSecrets": (
        [{"name": "x"}],
        {},
        lambda f: [pod(w)["imagePullSecrets"] for w in (deployment(f), daemonset(f))],
        [[{"name": "x"}]] * 2,
    ),
    "nameOverride": (
        "lb",
        {},
        lambda f: deployment(f)["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"],
        "lb",
    ),
    "fullnameOverride": ("edge", {}, lambda f: deployment(f)["metadata"]["name"], "edge-controller"),
    "existingConfigMap": (
        "mine",
        {},
        lambda f: ("--config=mine" in container(deployment(f), "controller")["args"], names(f, "ConfigMap")),
        (True, []),
    ),
    "configInline": (POOLS, {}, lambda f: yaml.safe_load(one(f, "ConfigMap")["data"]["config"]), POOLS),
    "rbac.create": (
        False,
        {},
        lambda f: [k for k in kinds(f) if "Role" in k],
        [],
    ),
    "psp.create": (False, {}, lambda f: names(f, "PodSecurityPolicy"), []),
    "prometheus.scrapeAnnotations": (
        True,
        {},
        lambda f: [w["spec"]["template"]["metadata"]["annotations"] for w in (deployment(f), daemonset(f))],
        [{"prometheus.io/scrape": "true", "prometheus.io/port": "7472"}] * 2,
    ),
    "prometheus.metricsPort": (
        9999,
        {},
        lambda f: [
            (c["ports"][0], "--port=9999" in c["args"])
            for c in (container(deployment(f), "controller"), container(daemonset(f), "speaker"))
        ],
        [
            ({"name": "monitoring", "containerPort": 9999, "protocol": "TCP"}, True),
            ({"name": "monitoring", "containerPort": 9999, "hostPort": 9999, "protocol": "TCP"}, True),
        ],
    ),
    "prometheus.serviceAccount": (
        "prom",
        {**MONITOR, "prometheus.namespace": "obs"},
        lambda f: one(f, "RoleBinding", "metallb-prometheus")["subjects"],
        [{"kind": "ServiceAccount", "name": "prom", "namespace": "obs"}],
    ),
    "prometheus.namespace": (
        "obs",
        {**MONITOR, "prometheus.serviceAccount": "prom"},
        lambda f: one(f, "RoleBinding", "metallb-prometheus")["subjects"][0]["namespace"],
        "obs",
    ),
    "prometheus.podMonitor.enabled": (
        True,
        {},
        lambda f: names(f, "PodMonitor"),
        ["metallb-controller", "metallb-speaker"],
    ),
    "prometheus.podMonitor.additionalLabels": (
        {"release": "p"},
        MONITOR,
        lambda f: one(f, "PodMonitor", "metallb-speaker")["metadata"]["labels"]["release"],
        "p",
    ),
    "prometheus.podMonitor.jobLabel": (
        "j",
        MONITOR,
        lambda f: one(f, "PodMonitor", "metallb-speaker")["spec"]["jobLabel"],
        "j",
    ),
    "prometheus.podMonitor.interval": (
        30,
        MONITOR,
        lambda f: one(f, "PodMonitor", "metallb-speaker")["spec"]["podMetricsEndpoints"][0]["interval"],
        "30s",
    ),
    "prometheus.podMonitor.metricRelabelings": (
        [{"action": "drop"}],
        MONITOR,
        lambda f: one(f, "PodMonitor", "metallb-speaker")["spec"]["podMetricsEndpoints"][0]["metricRelabelings"],
        [{"action": "drop"}],
    ),
    "prometheus.podMonitor.relabelings": (
        [{"action": "keep"}],
        MONITOR,
        lambda f: one(f, "PodMonitor", "metallb-speaker")["spec"]["podMetricsEndpoints"][0]["relabelings"],
        [{"action": "keep"}],
    ),
    "prometheus.prometheusRule.enabled": (True, {}, lambda f: names(f, "PrometheusRule"), ["metallb"]),
    "prometheus.prometheusRule.additionalLabels": (
        {"release": "p"},
        RULE,
        lambda f: one(f, "PrometheusRule")["metadata"]["labels"]["release"],
        "p",
    ),
    "prometheus.prometheusRule.addressPoolUsage.thresholds": (
        [{"percent": 60, "labels": ALERT_LABELS}],
        RULE,
        lambda f: [(r["alert"], r["labels"]) for r in rules(f) if "Usage" in r["alert"]],
        [("MetalLBAddressPoolUsage60Percent", ALERT_LABELS)],
    ),
    "prometheus.prometheusRule.addressPoolUsage.enabled": (
        False,
        RULE,
        lambda f: [r["alert"] for r in rules(f) if "Usage" in r["alert"]],
        [],
    ),
    "prometheus.prometheusRule.extraAlerts": (
        [{"alert": "Mine", "expr": "up == 0"}],
        RULE,
        lambda f: alert(f, "Mine"),
        {"alert": "Mine", "expr": "up == 0"},
    ),
    "speaker.tolerateMaster": (False, {}, lambda f: pod(daemonset(f)).get("tolerations"), None),
    "speaker.memberlist.enabled": (
        False,
        {},
        lambda f: [k for k in environment(container(daemonset(f), "speaker")) if "_ML_" in k],
        [],
    ),
    "speaker.memberlist.mlBindPort": (
        8000,
        {},
        lambda f: (
            environment(container(daemonset(f), "speaker"))["METALLB_ML_BIND_PORT"],
            [p["containerPort"] for p in container(daemonset(f), "speaker")["ports"][1:]],
        ),
        ("8000", [8000, 8000]),
    ),
    "speaker.secretName": (
        "gossip",
        {},
        lambda f: (
            environment(container(daemonset(f), "speaker"))["METALLB_ML_SECRET_KEY"]["secretKeyRef"]["name"],
            environment(container(deployment(f), "controller"))["METALLB_ML_SECRET_NAME"],
        ),
        ("gossip", "gossip"),
    ),
    "speaker.runtimeClassName": ("gvisor", {}, lambda f: pod(daemonset(f))["runtimeClassName"], "gvisor"),
}
for key, name in {
    "staleConfig": "MetalLBStaleConfig",
    "configNotLoaded": "MetalLBConfigNotLoaded",
    "addressPoolExhausted": "MetalLBAddressPoolExhausted",
    "bgpSessionDown": "MetalLBBGPSessionDown",
}.items():
    CASES[f"prometheus.prometheusRule.{key}.enabled"] = (False, RULE, lambda f, n=name: alert(f, n), {})
    CASES[f"prometheus.prometheusRule.{key}.labels"] = (
        ALERT_LABELS,
        RULE,
        lambda f, n=name: alert(f, n)["labels"],
        ALERT_LABELS,
    )
for component, kind, workload in (("controller", "Deployment", deployment), ("speaker", "DaemonSet", daemonset)):
    own: Callable[[list[Object]], Object] = lambda f, w=workload, c=component: container(w(f), c)  # noqa: E731
    its_pod: Callable[[list[Object]], Object] = lambda f, w=workload: pod(w(f))  # noqa: E731
    CASES |= {
        f"{component}.enabled": (False, {}, lambda f, k=kind: k in kinds(f), False),
        f"{component}.logLevel": ("debug", {}, lambda f, o=own: "--log-level=debug" in o(f)["args"], True),
        f"{component}.image.repository": (
            "r.example.com/x/y",
            {},
            lambda f, o=own: o(f)["image"],
            "r.example.com/x/y:v1.0.0",
        ),
        f"{component}.image.tag": (
            "v9.8.7",
            {},
            lambda f, o=own: o(f)["image"],
            f"localhost/metallb/{component}:v9.8.7",
        ),
        f"{component}.image.pullPolicy": ("Never", {}, lambda f, o=own: o(f)["imagePullPolicy"], "Never"),
        f"{component}.serviceAccount.create": (
            False,
            {},
            lambda f, p=its_pod, c=component: (
                p(f)["serviceAccountName"],
                f"metallb-{c}" in names(f, "ServiceAccount"),
            ),
            ("default", False),
        ),
        f"{component}.serviceAccount.name": (
            "acc",
            {},
            lambda f, p=its_pod: (p(f)["serviceAccountName"], "acc" in names(f, "ServiceAccount")),
            ("acc", True),
        ),
        f"{component}.serviceAccount.annotations": (
            {"a": "b"},
            {},
            lambda f, c=component: one(f, "ServiceAccount", f"metallb-{c}")["metadata"]["annotations"],
            {"a": "b"},
        ),
        f"{component}.resources": (
            {"limits": {"cpu": "100m"}},
            {},
            lambda f, o=own: o(f)["resources"],
            {"limits": {"cpu": "100m"}},
        ),
        f"{component}.nodeSelector": (
            {"lb": "yes-please"},
            {},
            lambda f, p=its_pod: p(f)["nodeSelector"],
            {"kubernetes.io/os": "linux", "lb": "yes-please"},
        ),
        f"{component}.tolerations": (
            [{"key": "k", "operator": "Exists"}],
            {},
            lambda f, p=its_pod: p(f)["tolerations"][-1],
            {"key": "k", "operator": "Exists"},
        ),
        f"{component}.priorityClassName": ("high", {}, lambda f, p=its_pod: p(f)["priorityClassName"], "high"),
        f"{component}.affinity": (
            {"nodeAffinity": {}},
            {},
            lambda f, p=its_pod: p(f)["affinity"],
            {"nodeAffinity": {}},
        ),
        f"{component}.podAnnotations": (
            {"a": "b"},
            {},
            lambda f, w=workload: w(f)["spec"]["template"]["metadata"]["annotations"],
            {"a": "b"},
        ),
    }
    for probe in ("livenessProbe", "readinessProbe"):
        CASES[f"{component}.{probe}.enabled"] = (False, {}, lambda f, o=own, p=probe: p in o(f), False)
        fields = ("failureThreshold", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold")
        for field in fields:
            sample = 1 if (probe, field) == ("livenessProbe", "successThreshold") else 17
            CASES[f"{component}.{probe}.{field}"] = (
                sample,
                {},
                lambda f, o=own, p=probe, x=field: o(f)[p][x],
                sample,
            )
CASES["controller.securityContext"] = (
    {"runAsUser": 1234},
    {},
    lambda f: pod(deployment(f))["securityContext"]["runAsUser"],
    1234,
)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in flat.items():
        here = out
        *steps, last = key.split(".")
        for step in steps:
            here = here.setdefault(step, {})
        here[last] = copy.deepcopy(value)
    return out


def at(values: Any, key: str) -> Any:
    for step in key.split("."):
        values = values[step]
    return values


WITHOUT_EFFECT = sorted(k for k, e in OFFICIAL.items() if e["ours"] == "no-effect")


def test_every_value_has_a_case() -> None:
    assert sorted({*CASES, *WITHOUT_EFFECT}) == sorted(OFFICIAL)


@pytest.mark.parametrize("key", sorted(CASES))
def test_effect(key: str) -> None:
    sample, others, probe, expected = CASES[key]
    found = render(nested({**others, key: sample}), *PSP)
    assert probe(found) == expected


@pytest.mark.parametrize("key", [k for k in sorted(CASES) if "successThreshold" not in k])
def test_case_tells_the_sample_from_the_default(key: str) -> None:
    """Without the sample the rendering must differ, or the case above proves nothing."""
    _, others, probe, expected = CASES[key]
    try:
        seen = probe(render(nested(others), *PSP))
    except (KeyError, AssertionError, StopIteration, IndexError):
        return  # what the sample brings is not there at all
    assert seen != expected


@pytest.mark.parametrize("key", sorted(OFFICIAL))
def test_default_is_as_the_table_says(key: str) -> None:
    entry = OFFICIAL[key]
    ours = at(VALUES, key)
    assert entry["ours"] in ("same", "default", "more", "no-effect")
    if entry["ours"] == "default":
        assert ours != entry["default"]
    else:
        assert ours == entry["default"]


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_no_effect_is_none(key: str) -> None:
    sample = {"speaker.frr.enabled": True, "speaker.frr.logLevel": "debugging", "speaker.frr.image.pullPolicy": "Never"}
    assert render(nested({key: sample.get(key, "other")})) == render()
