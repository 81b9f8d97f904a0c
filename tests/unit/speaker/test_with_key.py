"""The announcer waits for the membership's key where the pod started before its Secret, and only there."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from metallb_common import app
from metallb_speaker.announcer.loop import Loop
from metallb_speaker.announcer.run import with_key
from metallb_speaker.flags import FLAGS

WANTED = ("--mode=announcer", "--ml-bindaddr=10.0.0.1", "--ml-labels=app=metallb", "--ml-secret-name=memberlist")


def options(folder: Path, *flags: str) -> app.Options:
    return app.parse(["--node-name=n1", f"--socket={folder}/desired.sock", *flags], FLAGS, {})


def test_the_key_is_taken_when_it_comes(tmp_path: Path) -> None:
    loop, stop = Loop(), app.Stop()
    threading.Timer(0.3, lambda: (tmp_path / "memberlist.key").write_text("the key")).start()
    began = time.monotonic()
    found = with_key(loop, options(tmp_path, *WANTED), stop)
    assert found.text("ml-secret-key") == "the key"
    assert found.text("node-name") == "n1"
    assert time.monotonic() - began >= 0.25
    loop.close()


@pytest.mark.parametrize(
    "flags",
    [
        ("--ml-secret-key=k", *WANTED),  # the environment has it
        ("--mode=both", *WANTED[1:]),  # another's chart: its pods wait for the Secret themselves
        (WANTED[0], *WANTED[2:]),  # membership off
        (*WANTED[:2], WANTED[3]),
        WANTED[:3],  # nobody hands one over
    ],
)
def test_nobody_else_waits(tmp_path: Path, flags: tuple[str, ...]) -> None:
    loop = Loop()
    given = options(tmp_path, *flags)
    assert with_key(loop, given, app.Stop()) is given
    loop.close()


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    loop, stop = Loop(), app.Stop()
    threading.Timer(0.2, stop.ask).start()
    assert with_key(loop, options(tmp_path, *WANTED), stop).text("ml-secret-key") == ""
    loop.close()
