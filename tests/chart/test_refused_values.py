"""Values that would make objects which the API server refuses: refused while Helm renders, or rendered right."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.tools import CHART, helm, template


def nested(key: str, value: Any) -> Any:
    """`a.b: value` as mappings."""
    for step in reversed(key.split(".")):
        value = {step: value}
    return value


def refusal(key: str, value: Any) -> str:
    told = template(nested(key, value))
    assert told.returncode != 0, "rendered"
    lines = [line for line in told.stderr.splitlines() if f"at '/{key.replace('.', '/')}': value must be" in line]
    assert len(lines) == 1, told.stderr
    return lines[0]


@pytest.mark.parametrize("component", ["controller", "speaker"])
@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe"])
def test_a_probe_that_restarts_counts_one_success(component: str, probe: str) -> None:
    assert "the only number that Kubernetes takes" in refusal(f"{component}.{probe}.successThreshold", 2)


def test_a_readiness_probe_may_count_more() -> None:
    assert template(nested("speaker.readinessProbe.successThreshold", 2)).returncode == 0


def test_a_dns_policy_without_the_settings_that_it_needs() -> None:
    """`None` wants `dnsConfig`, which is no value of ours."""
    assert "Default, ClusterFirst or ClusterFirstWithHostNet" in refusal("speaker.dnsPolicy", "None")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("controller.image.repository", "registry.example.com/me/ctl:v1", "tag and digest have keys of their own"),
        ("controller.image.repository", "registry.example.com/Me/ctl", "a repository such as"),
        ("speaker.image.repository", "https://registry.example.com/ctl", "a repository such as"),
        ("speaker.image.repository", f"a/b@sha256:{'0' * 64}", "tag and digest have keys of their own"),
        ("controller.image.tag", "a b", "a tag: letters, digits"),
        ("speaker.image.tag", ":v1", "a tag: letters, digits"),
        ("global.imageRegistry", "registry.example.com/Lb", "in lower case"),
        ("controller.strategy.type", "OnDelete", "RollingUpdate or Recreate"),
        ("controller.strategy.maxSurge", 1, "it is rollingUpdate.maxSurge"),
        ("speaker.updateStrategy.type", "Recreate", "RollingUpdate or OnDelete"),
        ("speaker.updateStrategy.rollingUpdate.maxSurge", 1, "holds the host\\'s ports"),
        ("speaker.updateStrategy.rollingUpdate.maxUnavailable", 0, "a whole number from 1"),
        ("speaker.updateStrategy.rollingUpdate.maxUnavailable", "0%", "a percentage such as 10%"),
        ("controller.securityContext.runAsNonroot", True, "it is spelt runAsNonRoot"),
        ("controller.securityContext.readOnlyRootFilesystem", True, "it belongs to containers"),
        ("speaker.securityContext.runAsUser", "0", "a number from 0"),
        ("speaker.securityContext.seccompProfile.type", "Default", "RuntimeDefault, Localhost or Unconfined"),
        ("controller.affinity.antiAffinity", {}, "it is spelt podAntiAffinity"),
        ("prometheus.prometheusRule.staleConfig.labels", {"runbook-url": "x"}, "labels of Prometheus"),
        ("prometheus.prometheusRule.staleConfig.labels.tier", 1, "in quotes"),
    ],
)
def test_what_the_api_server_or_the_kubelet_would_refuse(key: str, value: Any, told: str) -> None:
    assert told in refusal(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("controller.securityContext.sysctl", []),
        ("speaker.securityContext.seccompProfile.profile", "x"),
        ("controller.strategy.rolling", {}),
        ("speaker.updateStrategy.rollingUpdate.partition", 1),
        ("controller.affinity.nodes", {}),
    ],
)
def test_a_key_that_kubernetes_does_not_have(key: str, value: Any) -> None:
    told = template(nested(key, value))
    assert told.returncode != 0, "rendered"
    parent, _, last = key.rpartition(".")
    assert f"at '/{parent.replace('.', '/')}': additional properties '{last}' not allowed" in told.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("controller.image", {"repository": "registry.example.com:5000/a_b/c--d/ctl", "tag": "V1.0_rc-1"}),
        ("controller.image", {"repository": "ctl", "tag": ""}),
        ("controller.strategy", {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ("speaker.updateStrategy", {"type": "OnDelete"}),
        ("speaker.updateStrategy", {"rollingUpdate": {"maxUnavailable": "100%"}}),
        (
            "controller.securityContext",
            {
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "lb"},
                "fsGroupChangePolicy": "OnRootMismatch",
                "runAsGroup": 1,
                "seLinuxOptions": {"level": "s0:c1,c2"},
                "supplementalGroups": [1, 2],
                "supplementalGroupsPolicy": "Strict",
                "sysctls": [{"name": "net.core.somaxconn", "value": "1"}],
            },
        ),
    ],
)
def test_what_kubernetes_takes(key: str, value: Any) -> None:
    assert template(nested(key, value)).returncode == 0


@pytest.mark.parametrize("percentage", ["101%", "999%"])
def test_more_than_all_pods(percentage: str) -> None:
    said = refusal("controller.podDisruptionBudget.minAvailable", percentage)
    assert "a percentage such as 50%" in said


@pytest.mark.parametrize(
    ("key", "percentage"), [("minAvailable", "0%"), ("minAvailable", "50%"), ("maxUnavailable", "100%")]
)
def test_a_share_of_the_pods(key: str, percentage: str) -> None:
    budget = {"enabled": True, key: percentage}
    assert template({"controller": {"replicas": 2, "podDisruptionBudget": budget}}).returncode == 0


#: In base64 a number of YAML's: 0610.
OCTAL = "\u04edt"
#: Names that may be all digits, wherever a user may give one.
DIGITS: dict[str, Any] = {
    "nameOverride": "123",
    "fullnameOverride": "123",
    "existingConfigMap": "123",
    "configInline": {
        "address-pools": [{"name": "123", "protocol": "layer2", "addresses": ["192.0.2.0/24"]}],
        "peers": [
            {"name": "123", "my-asn": 1, "peer-asn": 2, "peer-address": "192.0.2.1", "password": "123"},
            {"name": "456", "my-asn": 1, "peer-asn": 2, "peer-address": "192.0.2.2", "password": OCTAL},
        ],
    },
    "peerPasswordSecrets": ["123"],
    "imagePullSecrets": [{"name": "123"}],
    "loadBalancerClass": "123",
    "commonLabels": {"a": "123"},
    "networkPolicy": {"enabled": True},
    "prometheus": {
        "serviceAccount": "123",
        "namespace": "123",
        "podMonitor": {"enabled": True, "jobLabel": "123"},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "grafanaDashboard": {"enabled": True, "namespace": "123"},
    },
    "controller": {
        "serviceAccount": {"name": "123"},
        "priorityClassName": "123",
        "runtimeClassName": "123",
        "podDisruptionBudget": {"enabled": True},
    },
    "speaker": {
        "serviceAccount": {"name": "1234"},
        "priorityClassName": "123",
        "runtimeClassName": "123",
        "secretName": "123",
    },
}


def spelt(value: Any, old: str, new: str) -> Any:
    """The same structure with the text replaced in every string."""
    match value:
        case dict():
            return {spelt(k, old, new): spelt(v, old, new) for k, v in value.items()}
        case list():
            return [spelt(v, old, new) for v in value]
        case str():
            return value.replace(old, new)
        case _:
            return value


def everything(values: Any, name: str) -> list[Any]:
    """Every object of a release of that name in a namespace of that name."""
    arguments = ["template", name, CHART, "--namespace", name, "-a", "policy/v1beta1/PodSecurityPolicy", "-f", "-"]
    told = helm(*arguments, stdin=yaml.safe_dump(values))
    assert told.returncode == 0, told.stderr
    return [d for d in yaml.safe_load_all(told.stdout) if d]


def test_names_of_digits_stay_text() -> None:
    """`123` and `x123` give the same objects but for the name: nothing is a number that was a text."""
    digits = everything(DIGITS, "123")
    letters = everything(spelt(DIGITS, "123", "x123"), "x123")
    for found in (digits, letters):
        config = next(o["data"] for o in found if "config" in o.get("data", {}))
        config["config"] = yaml.safe_load(config["config"])
        passwords = next(o["data"] for o in found if o["kind"] == "Secret")
        assert [v for v in passwords.values() if not isinstance(v, str)] == []
        passwords.clear()  # in base64, the name is not to be seen
    assert len(digits) > 30
    for one, other in zip(digits, letters, strict=True):
        assert spelt(one, "lb-123", "123") == spelt(other, "x123", "123"), one["kind"]  # Services have a letter first


def test_services_of_a_release_of_digits_have_names_that_services_may_have() -> None:
    """The name of a Service begins with a letter and has no dot (RFC 1035)."""
    for values in ({**DIGITS, "fullnameOverride": ""}, DIGITS, {**DIGITS, "fullnameOverride": f"a.{'b' * 60}"}):
        names = [o["metadata"]["name"] for o in everything(values, "123") if o["kind"] == "Service"]
        assert len(names) == len(set(names)) == 3
        assert [n for n in names if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", n)] == []


@pytest.mark.parametrize(
    "key",
    [
        "fullnameOverride",
        "existingConfigMap",
        "speaker.secretName",
        "controller.serviceAccount.name",
        "speaker.serviceAccount.name",
        "controller.priorityClassName",
        "speaker.runtimeClassName",
    ],
)
@pytest.mark.parametrize("name", ["MetalLB", "metal_lb", "-lb", "lb-", "lb.", "a b"])
def test_a_name_that_no_object_may_have(key: str, name: str) -> None:
    assert "lower-case letters, digits, dashes and dots" in refusal(key, name)


def test_a_chart_name_that_no_label_may_have() -> None:
    assert "a label value" in refusal("nameOverride", "metal lb")


def test_a_chart_name_that_is_a_label_but_no_part_of_a_name() -> None:
    told = template({"nameOverride": "MetalLB"})
    assert told.returncode != 0
    assert 'nameOverride: "metallb-MetalLB" is no name of an object' in told.stderr
    assert template({"nameOverride": "MetalLB", "fullnameOverride": "lb"}).returncode == 0


@pytest.mark.parametrize("key", ["existingConfigMap", "speaker.secretName"])
def test_a_long_name_of_the_users_is_not_cut(key: str) -> None:
    name = f"{'a' * 126}.{'b' * 126}"
    told = template(nested(key, name))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("a" * 63) == 2 * told.stdout.count(name) > 0
