"""Mistakes that users make: `helm install` refuses them, and a ConfigMap edited into them harms nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.cluster.client import KubeClient
from tests.e2e import product

pytestmark = pytest.mark.cluster  # root only where the embedded cluster is used, which says so itself


def pool(**changed: Any) -> dict[str, Any]:
    return {"name": "my-ip-space", "protocol": "layer2", "addresses": [product.POOL_V4]} | changed


def peer(**changed: Any) -> dict[str, Any]:
    return {"my-asn": 64512, "peer-asn": 64500, "peer-address": "172.18.0.21"} | changed


@dataclass(frozen=True)
class Mistake:
    """A configuration; where it is wrong, as Helm and as we write it; why; the hint, the same in both."""

    name: str
    config: dict[str, Any]
    at_helm: str
    path: str
    reason: str
    hint: str


ADDRESS = "a CIDR such as 192.0.2.0/24, one address such as 192.0.2.1/32, or a range such as 192.0.2.10-192.0.2.20"
FIRST = ("/configInline/address-pools/0/addresses/0", "address-pools[0].addresses[0]")

MISTAKES = (
    Mistake("address-pool", {"address-pool": [pool()]}, "/configInline/address-pool", "address-pool",
            'unknown key "address-pool"', "it is spelt address-pools"),
    Mistake("protocol-arp", {"address-pools": [pool(protocol="arp")]}, "/configInline/address-pools/0/protocol",
            "address-pools[0].protocol", 'unknown protocol "arp"', "layer2 or bgp"),
    Mistake("reversed-range", {"address-pools": [pool(addresses=["172.18.0.250-172.18.0.200"])]},
            "configInline.address-pools[0].addresses[0]", FIRST[1], 'start IP "172.18.0.250" is after the end IP',
            "write 172.18.0.200-172.18.0.250"),
    Mistake("prefix-33", {"address-pools": [pool(addresses=["172.18.0.0/33"])]}, *FIRST,
            'invalid CIDR "172.18.0.0/33"', ADDRESS),
    Mistake("bare-address", {"address-pools": [pool(addresses=["172.18.0.200"])]}, *FIRST,
            "an address without a prefix length (write 172.18.0.200/32", ADDRESS),
    Mistake("hold-time-1s", {"address-pools": [pool()], "peers": [peer(**{"hold-time": "1s"})]},
            "/configInline/peers/0/hold-time", "peers[0].hold-time", 'invalid hold time "1s"',
            "a duration of at least 3s with its unit"),
    Mistake("my-asn-quoted", {"address-pools": [pool()], "peers": [peer(**{"my-asn": "64512"})]},
            "/configInline/peers/0/my-asn", "peers[0].my-asn", 'the text "64512" where a whole number is wanted',
            "an AS number from 1 to 4294967295, without quotes"),
)  # fmt: skip
by_name = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)


# --- by Helm: refused before anything is made -----------------------------------------------------


def refused(kube: KubeClient, values: dict[str, Any]) -> str:
    """What `helm install` prints when it refuses; nothing may have been made."""
    told = kube.tool("helm", "install", "mistaken", str(product.CHART), "-n", "mistaken", "-f", "-",
                     input=json.dumps(values), check=False)  # fmt: skip
    assert told.returncode != 0, told.stdout
    assert "mistaken" not in kube.helm("list", "-A", "-a", "-q").split()
    return told.stderr


@by_name
def test_helm_install_refuses_with_the_path_and_the_hint(kube: KubeClient, mistake: Mistake) -> None:
    said = refused(kube, {"configInline": mistake.config})
    assert mistake.at_helm in said
    assert mistake.hint in said


def test_helm_install_refuses_a_misspelt_config_inline(kube: KubeClient) -> None:
    said = refused(kube, {"configInLine": product.layer2()})
    assert "/configInLine" in said
    assert "it is spelt configInline" in said


# --- by kubectl: the ConfigMap is refused, what is announced stays --------------------------------


@pytest.fixture(scope="module")
def served(lab: Cluster) -> Iterator[Cluster]:
    """One Service with an address that answers."""
    product.ensure(lab)
    product.apps(lab, [product.backend("one")])
    assert product.expose(lab, product.service("kept", "one")) == [["172.18.0.200"]]
    lab.wait("the page", lambda: lab.fetch("172.18.0.200"), 20)
    yield lab
    product.remove(lab, "--all")


def warnings(cluster: Cluster) -> dict[str, int]:
    """The Warning events on the ConfigMap: text -> how often it was said, by this controller and by earlier ones."""
    said: Counter[str] = Counter()
    for event in product.events(cluster, "ConfigMap", "metallb"):
        if event["type"] == "Warning":
            said[event["message"]] += event.get("count") or 1
    return said


def stale(cluster: Cluster) -> list[float]:
    return product.metric(cluster, product.BY_HELM["controller"], "metallb_k8s_client_config_stale_bool")


@pytest.mark.parametrize(
    "mistake",
    [
        *MISTAKES,
        Mistake(
            "configInLine",
            {"configInLine": product.layer2()},
            "",
            "configInLine",
            'unknown key "configInLine"',
            "the keys here are address-pools",
        ),
    ],
    ids=lambda m: m.name,
)
def test_a_mistaken_configmap_is_refused_and_nothing_changes(served: Cluster, mistake: Mistake) -> None:
    pods = {p["metadata"]["uid"]: p for c in product.BY_HELM.values() for p in product.pods(served, c)}
    owner = product.sole_owner(served, "172.18.0.200")
    before = warnings(served)
    product.edit_config(served, mistake.config)
    served.wait("config_stale_bool is 1", lambda: stale(served) == [1], 20)
    served.wait(
        "a new Warning event on the ConfigMap, with path, reason and hint",
        lambda: any(
            mistake.path in text and mistake.reason in text and mistake.hint in text and count > before.get(text, 0)
            for text, count in warnings(served).items()
        ),
        20,
    )
    assert product.addresses(served, "kept") == ["172.18.0.200"]
    product.still_owns(served, "172.18.0.200", owner)
    served.wait("the page still", lambda: "pod=one-" in served.fetch("172.18.0.200"), 10)

    product.edit_config(served, product.layer2())
    served.wait("config_stale_bool is 0", lambda: stale(served) == [0], 20)
    assert {p["metadata"]["uid"] for c in product.BY_HELM.values() for p in product.pods(served, c)} == set(pods)


def test_a_refused_configmap_survives_restarts_of_everything(served: Cluster) -> None:
    """A pod that starts while the ConfigMap is wrong goes on with what was accepted before."""
    product.edit_config(served, {"address-pools": [pool(addresses=["172.18.0.0/33"])]})
    try:
        served.wait("config_stale_bool is 1", lambda: stale(served) == [1], 20)
        for what in ("deployment/metallb-controller", "daemonset/metallb-speaker"):
            served.kubectl("-n", product.NAMESPACE, "rollout", "restart", what)
        for what in ("deployment/metallb-controller", "daemonset/metallb-speaker"):
            served.kubectl("-n", product.NAMESPACE, "rollout", "status", what, "--timeout=120s", timeout=150)
        served.wait("still stale", lambda: stale(served) == [1], 30)
        assert product.addresses(served, "kept") == ["172.18.0.200"]
        served.wait("the address answers", lambda: "pod=one-" in served.fetch("172.18.0.200"), 20)
        product.sole_owner(served, "172.18.0.200")
    finally:
        product.edit_config(served, product.layer2())
    served.wait("config_stale_bool is 0", lambda: stale(served) == [0], 20)
