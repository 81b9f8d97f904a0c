"""Writes metallb.yaml: the chart's rendering, under the names that the original's plain manifests use.

One source of truth: what runs is decided by the chart. Only names, labels and selectors differ,
because those of an installed Deployment or DaemonSet cannot change: who has the original's manifests
applied can apply these over them. ``--check`` compares instead of writing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "manifests" / "metallb.yaml"
NAMESPACE = "metallb-system"
RELEASE = "metallb"

#: What the manifests fix and a chart's user would choose.
VALUES: dict[str, Any] = {
    "prometheus": {"scrapeAnnotations": True},
    # A user of plain manifests puts peers' passwords into this Secret, which the speakers may read.
    "peerPasswordSecrets": ["peer-passwords"],
}

#: The chart's names -> the manifests' names, as whole strings.
NAMES = {
    "metallb-controller": "controller",
    "metallb-speaker": "speaker",
    "metallb:controller": f"{NAMESPACE}:controller",
    "metallb:speaker": f"{NAMESPACE}:speaker",
    "metallb-config-watcher": "config-watcher",
    "metallb-pod-lister": "pod-lister",
    "metallb-memberlist": "memberlist",
    "metallb-accepted": "config-accepted",
    "--config=metallb": "--config=config",
    "app.kubernetes.io/name=metallb,app.kubernetes.io/component=speaker": "app=metallb,component=speaker",
}

HEADER = """\
# Everything but the namespace and the configuration. Made by manifests/build.py from the chart: edit that one.
# Apply namespace.yaml first. The pods idle until there is a ConfigMap `config` in {namespace}; see the examples
# beside this file.
"""


class _Dumper(yaml.SafeDumper):
    """Lists indented below their key, as people write them; no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def helm() -> str:
    """Path of Helm: from PATH or the cache, built if need be."""
    toolchain = [sys.executable, str(ROOT / "tests" / "cluster" / "toolchain.py"), "helm"]
    told = subprocess.run(toolchain, stdout=subprocess.PIPE, text=True, check=False)
    if told.returncode:
        raise SystemExit(told.returncode)
    return dict(line.split("\t") for line in told.stdout.splitlines())["helm"]


def rendered() -> list[dict[str, Any]]:
    """The chart's objects, as dictionaries, in the order of their installation."""
    told = subprocess.run(
        [helm(), "template", RELEASE, str(ROOT / "chart"), "--namespace", NAMESPACE, "-f", "-"],
        input=yaml.safe_dump(VALUES),
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise SystemExit(f"helm template failed:\n{told.stderr}")
    test_hooks = {"helm.sh/hook"}
    documents = [d for d in yaml.safe_load_all(told.stdout) if d]
    return [d for d in documents if not test_hooks & set(d["metadata"].get("annotations") or {})]


def renamed(value: Any) -> Any:
    """The same structure with every string that is a name of the chart's replaced."""
    match value:
        case dict():
            return {k: renamed(v) for k, v in value.items()}
        case list():
            return [renamed(v) for v in value]
        case str():
            return NAMES.get(value, value)
        case _:
            return value


def relabelled(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the manifests' labels and selectors."""
    labels = {"app": "metallb"}
    component = document["metadata"].get("labels", {}).get("app.kubernetes.io/component")
    workload = document["kind"] in ("Deployment", "DaemonSet")
    if workload:
        labels["component"] = component
    document["metadata"]["labels"] = dict(labels)
    if workload:
        document["spec"]["selector"] = {"matchLabels": dict(labels)}
        document["spec"]["template"]["metadata"]["labels"] = dict(labels)
    return document


def leftovers(value: Any, path: str = "") -> list[str]:
    """Paths of strings that still hold a name of the chart's: a rename that NAMES lacks."""
    match value:
        case dict():
            return [p for k, v in value.items() for p in leftovers(v, f"{path}.{k}") + leftovers(k, f"{path}.{k}")]
        case list():
            return [p for i, v in enumerate(value) for p in leftovers(v, f"{path}[{i}]")]
        case str():
            stripped = value.replace(NAMESPACE, "").replace("localhost/metallb/", "").replace("/run/metallb", "")
            bad = any(mark in stripped for mark in ("metallb-", "metallb:", "app.kubernetes.io", "helm.sh"))
            return [f"{path}: {value}"] if bad else []
        case _:
            return []


def build() -> str:
    """The text of metallb.yaml."""
    documents = [relabelled(renamed(d)) for d in rendered()]
    bad = [f"{d['kind']}{p}" for d in documents for p in leftovers(d)]
    if bad:
        raise SystemExit("names of the chart that manifests/build.py does not translate:\n  " + "\n  ".join(bad))
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
    return HEADER.format(namespace=NAMESPACE) + text


def main(arguments: list[str]) -> int:
    text = build()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != text:
            print(f"{TARGET.relative_to(ROOT)} is not what the chart gives now: run `make generate`", file=sys.stderr)
            return 1
        return 0
    if arguments:
        print(f"usage: {Path(__file__).name} [--check]", file=sys.stderr)
        return 2
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
