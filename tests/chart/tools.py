"""Helm for the chart's tests: render, lint, and what came out, as dictionaries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import toolchain

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "chart"
RELEASE = "metallb"
NAMESPACE = "metallb-system"

#: Files of values that the chart must render: those that chart-testing installs, and more that need
#: kinds or objects which a bare cluster lacks.
VALUES = sorted([*(CHART / "ci").glob("*-values.yaml"), *(ROOT / "tests" / "chart" / "values").glob("*-values.yaml")])

Object = dict[str, Any]


def helm(*arguments: str | Path, version: int = 3, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Helm 3 or Helm 4. Never raises for a failure: look at returncode."""
    program = toolchain.path("helm" if version == 3 else "helm4")
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)


def template(
    values: Any = None, *arguments: str | Path, version: int = 3, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """`helm template` with values given as a structure (none: the defaults) or as a file."""
    command: list[str | Path] = ["template", RELEASE, chart, "--namespace", NAMESPACE]
    stdin = None
    if isinstance(values, Path):
        command += ["-f", values]
    elif values is not None:
        command += ["-f", "-"]
        stdin = yaml.safe_dump(values)
    return helm(*command, *arguments, version=version, stdin=stdin)


def objects(text: str) -> list[Object]:
    """Every object of a rendering, without the hooks of `helm test`."""
    found = [d for d in yaml.safe_load_all(text) if d]
    return [o for o in found if "helm.sh/hook" not in (o["metadata"].get("annotations") or {})]


def render(values: Any = None, *arguments: str | Path, version: int = 3) -> list[Object]:
    """The objects of a rendering that must succeed."""
    told = template(values, *arguments, version=version)
    assert told.returncode == 0, told.stderr
    return objects(told.stdout)


def one(documents: Iterable[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind, or the one of that name."""
    found = [o for o in documents if o["kind"] == kind and name in ("", o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} {name}"
    return found[0]


def container(workload: Object, name: str) -> Object:
    """A container of a Deployment or DaemonSet, by its name."""
    found: list[Object] = [c for c in workload["spec"]["template"]["spec"]["containers"] if c["name"] == name]
    assert len(found) == 1, f"{len(found)} containers {name}"
    return found[0]


def environment(of: Object) -> dict[str, Any]:
    """Environment variables of a container: name -> value, or valueFrom."""
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in of.get("env", [])}


def plugin(name: str, command: str) -> Path:
    """A plugin folder for HELM_PLUGINS, in the cache, that holds one program as a Helm plugin."""
    source = toolchain.path(command)
    home = toolchain.cache() / "helm-plugins"
    folder = home / name
    with toolchain.locked("helm-plugins"):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / command
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            shutil.copy2(source, target)
        manifest = {
            "name": name,
            "version": toolchain.BY_COMMAND[command].version.removeprefix("v"),
            "usage": f"{name}, from the project's toolchain",
            "description": f"{name}, from the project's toolchain",
            "command": f"$HELM_PLUGIN_DIR/{command}",
        }
        (folder / "plugin.yaml").write_text(yaml.safe_dump(manifest))
    return home
