"""Flags, environment, namespace, signals and the ordered stop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from metallb_common import app

FLAGS = (*app.COMMON, app.Flag("leader-elect", True, "take the lease"))


def parse(*argv: str, **environ: str) -> app.Options:
    return app.parse(argv, FLAGS, environ)


@pytest.mark.parametrize("argv", [["-port=1"], ["--port=1"], ["-port", "1"], ["--port", "1"]])
def test_four_spellings(argv: Sequence[str]) -> None:
    assert parse(*argv).number("port") == 1


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        ([], True),
        (["--leader-elect"], True),
        (["--leader-elect=false"], False),
        (["--leader-elect", "false"], False),
        (["-leader-elect=F"], False),
        (["--leader-elect", "--port=1"], True),
    ],
)
def test_switches(argv: Sequence[str], value: bool) -> None:
    assert parse(*argv).truth("leader-elect") is value


def test_environment_gives_defaults() -> None:
    assert parse(METALLB_NAMESPACE="a").text("namespace") == "a"
    assert parse("--namespace=b", METALLB_NAMESPACE="a").text("namespace") == "b"
    assert parse(METALLB_NAMESPACE="").text("namespace") == ""
    assert parse("--namespace=", METALLB_NAMESPACE="a").text("namespace") == ""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--prot=1"], "did you mean --port"),
        (["--port=x"], "not a whole number"),
        (["--port"], "needs a value"),
        (["--log-level=loud"], "none of all, debug"),
        (["--leader-elect=maybe"], "neither true nor false"),
        (["run"], "not a flag"),
    ],
)
def test_mistakes(argv: Sequence[str], words: str) -> None:
    with pytest.raises(app.FlagError, match=words):
        parse(*argv)


def test_wrong_environment_names_the_variable() -> None:
    with pytest.raises(app.FlagError, match="BIND_PORT: 'x'"):
        app.parse([], [app.Flag("p", 1, "", env="BIND_PORT")], {"BIND_PORT": "x"})


def test_start_exits(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code, words in (
        (["--version"], 0, "x v1.0.0"),
        (["--help"], 0, "--port"),
        (["--nope"], 2, "unknown flag --nope"),
    ):
        with pytest.raises(SystemExit) as exit_:
            app.start("x", "1.0.0", FLAGS, argv)
        assert exit_.value.code == code
        captured = capsys.readouterr()
        assert words in captured.out + captured.err


def test_flags_without_effect_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    app.start("x", "1.0.0", FLAGS, ["-disable-epslices", "-enable-pprof=true"])
    out = capsys.readouterr().out
    assert "--disable-epslices is accepted and has no effect" in out
    assert "--enable-pprof is accepted" in out


def test_namespace(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    with pytest.raises(app.FlagError, match="--namespace"):
        app.namespace("", str(file))
    file.write_text("metallb-system\n")
    assert app.namespace("", str(file)) == "metallb-system"
    assert app.namespace("other", str(file)) == "other"


def test_the_first_end_stops_the_rest_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []

    async def lasting(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def failing() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("out of luck")

    async def main() -> int:
        return await app.until_stopped(app.Stop(), {"a": lasting("a"), "b": lasting("b"), "c": failing()})

    assert app.run(main) == 1
    assert ended == ["b", "a"]
    assert "out of luck" in capsys.readouterr().out


PROGRAM = """
import asyncio, sys
from metallb_common import app
stop = app.Stop().install()

async def lasting():
    print("up", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("ended", flush=True)
        await asyncio.sleep(float(sys.argv[1]))

sys.exit(app.run(lambda: app.until_stopped(stop, {"lasting": lasting()}, grace=60)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_signals_stop_in_order(number: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, number)
        assert "ended" in process.stdout.read()
        assert process.wait(30) == 0


def test_a_second_signal_ends_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "60"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.kill(process.pid, signal.SIGTERM)
        lines = iter(process.stdout.readline, "")
        assert any(line == "ended\n" for line in lines)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
