"""Every value of values.yaml has an effect: a sample that differs from its default changes what Helm renders.

And it changes it in the right place: a value of the controller leaves the speakers' DaemonSet as it is, and the other
way round. A new key of values.yaml needs a sample below, unless its name or its default tells one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.chart.test_parity import UNREAD, VALUES, leaves
from tests.chart.tools import Object, template

#: Everything on, so that whatever a value may change is there.
BASE: dict[str, Any] = {
    "configInline.address-pools": [{"name": "a", "protocol": "layer2", "addresses": ["192.0.2.0/24"]}],
    "prometheus.podMonitor.enabled": True,
    "prometheus.serviceMonitor.enabled": True,
    "prometheus.prometheusRule.enabled": True,
    "prometheus.grafanaDashboard.enabled": True,
    "networkPolicy.enabled": True,
    "controller.replicas": 3,
    "controller.podDisruptionBudget.enabled": True,
}

TEXTS = {"a-b": "sample"}
ENV = [{"name": "SAMPLE", "value": "x"}]
#: By the last step of the key: what the same word means everywhere.
BY_NAME: dict[str, Any] = {
    "commonLabels": TEXTS,
    "commonAnnotations": TEXTS,
    "additionalLabels": TEXTS,
    "annotations": TEXTS,
    "podLabels": TEXTS,
    "podAnnotations": TEXTS,
    "labels": TEXTS,
    "nodeSelector": TEXTS,
    "imagePullSecrets": ["sample"],
    "metricRelabelings": [{"action": "drop"}],
    "relabelings": [{"action": "keep"}],
    "interval": "17s",
    "jobLabel": "sample",
    "logLevel": "debug",
    "pullPolicy": "Never",
    "digest": f"sha256:{'1' * 64}",
    "resources": {"limits": {"cpu": "17m"}},
    "securityContext": {"runAsUser": 17},
    "affinity": {"nodeAffinity": {"a": "b"}},
    "tolerations": [{"key": "sample"}],
    "extraEnv": ENV,
    "extraArgs": ["--sample"],
    "extraVolumes": [{"name": "sample"}],
    "extraVolumeMounts": [{"name": "sample"}],
    "extraContainers": [{"name": "sample"}],
    "topologySpreadConstraints": [{"topologyKey": "sample"}],
    "minAvailable": 2,
    "maxUnavailable": 2,
    "strategy": {"type": "Recreate"},
    "updateStrategy": {"type": "OnDelete"},
}
#: By the whole key: what neither the name nor the default tells.
SAMPLES: dict[str, Any] = {
    "configInline": {"address-pools": [{"name": "b", "protocol": "layer2", "addresses": ["192.0.2.0/24"]}]},
    "peerPasswordSecrets": ["sample"],
    "prometheus.prometheusRule.addressPoolUsage.thresholds": [{"percent": 17}],
    "prometheus.prometheusRule.extraAlerts": [{"alert": "Sample"}],
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "networkPolicy.apiServerPorts": [17],
    "networkPolicy.apiServerCIDRs": ["192.0.2.0/24"],
    "controller.replicas": 4,
    "controller.onPoolConflict": "reallocate",
    "speaker.dnsPolicy": "ClusterFirst",
} | {
    f"prometheus.prometheusRule.{alert}.labels": {"a_b": "sample"}
    for alert in ("staleConfig", "configNotLoaded", "addressPoolExhausted", "bgpSessionDown")
}
#: What must be set beside the sample.
BESIDE: dict[str, dict[str, Any]] = {"alsoClassless": {"loadBalancerClass": "example.com/sample"}}
#: The one number that Kubernetes takes for these.
FIXED = {f"{c}.{p}.successThreshold" for c in ("controller", "speaker") for p in ("startupProbe", "livenessProbe")}
#: Values of one component that the other one must know.
SHARED = {
    "speaker.enabled",  # without speakers, the controller makes no key for them
    "speaker.memberlist.enabled",
    "speaker.secretName",
}

KEYS = [k for k in leaves(VALUES) if k not in FIXED and not any(k == u or k.startswith(f"{u}.") for u in UNREAD)]


def default(key: str) -> Any:
    here: Any = VALUES
    for step in key.split("."):
        here = here[step]
    return here


def sample(key: str) -> Any:
    value, name = default(key), key.rpartition(".")[2]
    if key in SAMPLES:
        return SAMPLES[key]
    if name in BY_NAME:
        return BY_NAME[name]
    match value:
        case bool():
            return not BASE.get(key, value)
        case int():
            return value + 1
        case str() | None:
            return "sample"
    raise AssertionError(f"no sample for {key}: add it to SAMPLES")


def rendered(flat: dict[str, Any]) -> str:
    values: dict[str, Any] = {}
    for key, value in flat.items():
        here = values
        *steps, last = key.split(".")
        for step in steps:
            here = here.setdefault(step, {})
        here[last] = value
    told = template(values, "-a", "policy/v1beta1/PodSecurityPolicy")
    assert told.returncode == 0, told.stderr
    return told.stdout


def workload(text: str, kind: str) -> Object:
    found = [d for d in yaml.safe_load_all(text) if d and d["kind"] == kind]
    return found[0] if found else {}


@pytest.fixture(scope="module")
def before() -> Callable[[str], str]:
    """What is rendered without the sample of a key."""
    made: dict[str, str] = {}

    def render(key: str) -> str:
        beside = BESIDE.get(key, {})
        if str(beside) not in made:
            made[str(beside)] = rendered(BASE | beside)
        return made[str(beside)]

    return render


@pytest.mark.parametrize("key", KEYS)
def test_a_value_changes_what_is_rendered(
    key: str, before: Callable[[str], str], tally: Callable[[str, int], None]
) -> None:
    base = {k: v for k, v in BASE.items() if not k.startswith(f"{key}.")}
    after = rendered(base | BESIDE.get(key, {}) | {key: sample(key)})
    assert after != before(key)
    tally("parity: values whose sample changes the rendering", 1)
    if key not in SHARED:
        for other, kind in (("controller.", "DaemonSet"), ("speaker.", "Deployment")):
            if key.startswith(other):
                assert workload(after, kind) == workload(before(key), kind)


def test_the_samples_are_of_keys_that_there_are() -> None:
    known = set(leaves(VALUES))
    assert sorted({*SAMPLES, *BESIDE, *FIXED, *SHARED} - known) == []
    assert sorted(BY_NAME.keys() - {k.rpartition(".")[2] for k in known}) == []
