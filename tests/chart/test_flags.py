"""What the chart passes to the processes is what they understand: flags, variables, ports, paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from metallb_common.app import Flag
from metallb_controller.__main__ import FLAGS as CONTROLLER
from metallb_speaker.flags import FLAGS as SPEAKER
from tests.chart.tools import VALUES, Object, container, render

PROCESSES = {
    "controller": ("Deployment", CONTROLLER),
    "speaker": ("DaemonSet", SPEAKER),
    "cluster": ("DaemonSet", SPEAKER),
}


def running(values: Path, name: str) -> Object | None:
    kind = PROCESSES[name][0]
    found = [o for o in render(values) if o["kind"] == kind]
    return container(found[0], name) if found else None


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("values", VALUES, ids=lambda p: p.name.removesuffix("-values.yaml"))
def test_arguments_and_variables_are_understood(values: Path, name: str) -> None:
    flags: dict[str, Flag] = {f.name: f for f in PROCESSES[name][1]}
    variables = {f.env for f in flags.values() if f.env}
    one = running(values, name)
    if one is None:  # that component is off in this file
        assert "speaker: { enabled: false }" in values.read_text() or name == "controller"
        return
    for argument in one["args"]:
        flag, _, text = argument.removeprefix("--").partition("=")
        assert flag in flags, argument
        if text:
            flags[flag].read(text, argument)
    given = {e["name"] for e in one["env"] if e["name"].startswith("METALLB_")}
    assert given <= variables, given - variables


def test_the_socket_lies_in_the_shared_volume() -> None:
    default = {f.name: f.default for f in SPEAKER}
    found = next(o for o in render() if o["kind"] == "DaemonSet")
    for name in ("speaker", "cluster"):
        [mount] = [m["mountPath"] for m in container(found, name)["volumeMounts"] if m["name"] == "run"]
        assert str(default["socket"]).startswith(f"{mount}/")
        assert default["state-dir"] == mount


def test_defaults_of_the_chart_are_those_of_the_processes() -> None:
    speaker = {f.name: f.default for f in SPEAKER}
    found = next(o for o in render() if o["kind"] == "DaemonSet")
    ports = {p["name"]: p["containerPort"] for p in container(found, "speaker")["ports"]}
    assert ports["monitoring"] == speaker["port"]
    assert ports["memberlist-udp"] == speaker["ml-bindport"]
