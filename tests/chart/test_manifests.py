"""The plain manifests: the original's names, fresh, usable as a Kustomize base, with examples that are right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from metallb_common.config.parse import parse
from tests.chart.tools import ROOT, Object, container, environment, one
from tests.cluster import toolchain

MANIFESTS = ROOT / "manifests"
EXAMPLES = sorted(MANIFESTS.glob("example-*.yaml"))


def load(path: Path) -> list[Object]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


@pytest.fixture(scope="module")
def found() -> list[Object]:
    return load(MANIFESTS / "metallb.yaml")


def kustomize(folder: Path) -> list[Object]:
    command = [str(toolchain.path("kubectl")), "kustomize", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    return [d for d in yaml.safe_load_all(told.stdout) if d]


def test_fresh() -> None:
    told = subprocess.run([sys.executable, str(MANIFESTS / "build.py"), "--check"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_names_are_the_originals(found: list[Object]) -> None:
    assert sorted((o["kind"], o["metadata"]["name"]) for o in found) == [
        ("ClusterRole", "metallb-system:controller"),
        ("ClusterRole", "metallb-system:speaker"),
        ("ClusterRoleBinding", "metallb-system:controller"),
        ("ClusterRoleBinding", "metallb-system:speaker"),
        ("DaemonSet", "speaker"),
        ("Deployment", "controller"),
        ("Role", "config-watcher"),
        ("Role", "controller"),
        ("Role", "pod-lister"),
        ("Role", "speaker"),
        ("RoleBinding", "config-watcher"),
        ("RoleBinding", "controller"),
        ("RoleBinding", "pod-lister"),
        ("RoleBinding", "speaker"),
        ("ServiceAccount", "controller"),
        ("ServiceAccount", "speaker"),
    ]


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "controller"), ("DaemonSet", "speaker")])
def test_selectors_are_the_originals(found: list[Object], kind: str, name: str) -> None:
    workload = one(found, kind)
    assert workload["spec"]["selector"] == {"matchLabels": {"app": "metallb", "component": name}}
    assert workload["spec"]["template"]["metadata"]["labels"] == {"app": "metallb", "component": name}


def test_no_object_speaks_of_helm(found: list[Object]) -> None:
    text = (MANIFESTS / "metallb.yaml").read_text()
    assert "helm" not in text.lower()
    assert "app.kubernetes.io" not in text
    for o in found:
        assert o["metadata"]["labels"]["app"] == "metallb"


def test_names_agree_with_each_other(found: list[Object]) -> None:
    controller = environment(container(one(found, "Deployment"), "controller"))
    announcer = environment(container(one(found, "DaemonSet"), "speaker"))
    cluster = environment(container(one(found, "DaemonSet"), "cluster"))
    role = one(found, "Role", "controller")["rules"]
    named = {r["resources"][0]: r["resourceNames"] for r in role if "resourceNames" in r}
    assert controller["METALLB_DEPLOYMENT"] == "controller"
    assert named["deployments"] == ["controller"]
    assert named["leases"] == [controller["METALLB_LEASE_NAME"]]
    assert named["configmaps"] == [controller["METALLB_ACCEPTED_CONFIG"]] == [cluster["METALLB_ACCEPTED_CONFIG"]]
    assert named["secrets"] == [controller["METALLB_ML_SECRET_NAME"]] == ["memberlist"]
    assert announcer["METALLB_ML_SECRET_KEY"]["secretKeyRef"] == {
        "name": "memberlist",
        "key": "secretkey",
        "optional": True,
    }
    assert announcer["METALLB_ML_SECRET_NAME"] == cluster["METALLB_ML_SECRET_NAME"] == "memberlist"
    assert announcer["METALLB_ML_LABELS"] == cluster["METALLB_ML_LABELS"] == "app=metallb,component=speaker"
    assert "--config=config" in container(one(found, "Deployment"), "controller")["args"]
    assert "--config=config" in container(one(found, "DaemonSet"), "cluster")["args"]


def test_bindings_refer_to_what_is_there(found: list[Object]) -> None:
    there = {(o["kind"], o["metadata"]["name"]) for o in found}
    for binding in [o for o in found if o["kind"].endswith("Binding")]:
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["name"]) in there


def test_namespace_allows_what_the_speakers_need() -> None:
    namespace = load(MANIFESTS / "namespace.yaml")[0]
    assert namespace["metadata"]["name"] == "metallb-system"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_kustomize_builds_it() -> None:
    built = kustomize(MANIFESTS)
    expected = load(MANIFESTS / "namespace.yaml") + load(MANIFESTS / "metallb.yaml")
    assert sorted((o["kind"], o["metadata"]["name"]) for o in built) == sorted(
        (o["kind"], o["metadata"]["name"]) for o in expected
    )


def test_base_with_a_generated_configmap(tmp_path: Path) -> None:
    """As the comment in kustomization.yaml says: base, configMapGenerator, disableNameSuffixHash, own images."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("namespace.yaml", "metallb.yaml", "kustomization.yaml"):
        (base / name).write_text((MANIFESTS / name).read_text())
    (tmp_path / "config").write_text("address-pools: []\n")
    overlay: dict[str, Any] = {
        "namespace": "metallb-system",
        "resources": ["base"],
        "configMapGenerator": [{"name": "config", "files": ["config"]}],
        "generatorOptions": {"disableNameSuffixHash": True},
        "images": [{"name": "localhost/metallb/speaker", "newName": "r.example.com/speaker", "newTag": "v2"}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = kustomize(tmp_path)
    config = one(built, "ConfigMap")
    assert (config["metadata"]["name"], config["metadata"]["namespace"]) == ("config", "metallb-system")
    assert config["data"] == {"config": "address-pools: []\n"}
    images = {c["image"] for c in one(built, "DaemonSet")["spec"]["template"]["spec"]["containers"]}
    assert images == {"r.example.com/speaker:v2"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example_is_right(path: Path) -> None:
    """The original's example had a key that its own parser refused."""
    documents = load(path)
    config = one(documents, "ConfigMap")
    assert (config["metadata"]["name"], config["metadata"]["namespace"]) == ("config", "metallb-system")
    parsed = parse(config["data"]["config"])
    assert parsed.config is not None, parsed.errors
    assert parsed.warnings == ()
    assert parsed.config.pools
    secrets = {o["metadata"]["name"]: o["stringData"] for o in documents if o["kind"] == "Secret"}
    for peer in parsed.config.peers:
        if peer.password_secret:
            assert peer.password_secret_key in secrets[peer.password_secret]


def test_there_are_examples_of_both_protocols() -> None:
    assert [p.stem for p in EXAMPLES] == ["example-bgp", "example-layer2"]


def test_the_speakers_may_read_the_example_secret(found: list[Object]) -> None:
    rules = one(found, "Role", "speaker")["rules"]
    assert rules == [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["peer-passwords"],
            "verbs": ["get"],
        }
    ]
