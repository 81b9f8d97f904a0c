"""The watch for a machine that stands still."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.stalls import Stalls


@pytest.fixture
def watch() -> Iterator[Stalls]:
    watch = Stalls()
    deadline = time.monotonic() + 30
    while not watch.since(0) and time.monotonic() < deadline:  # until it runs, and so can be stopped in its loop
        os.kill(watch._process.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(watch._process.pid, signal.SIGCONT)
        time.sleep(0.2)
    yield watch
    watch.end()


def test_a_process_that_did_not_run_for_a_while_is_a_stall(watch: Stalls) -> None:
    start = time.monotonic()
    os.kill(watch._process.pid, signal.SIGSTOP)
    time.sleep(0.4)
    os.kill(watch._process.pid, signal.SIGCONT)
    time.sleep(0.2)
    assert any(length > 0.3 for _, length in watch.since(start))


def test_what_was_before_the_test_does_not_count(watch: Stalls) -> None:
    began = [began for began, _ in watch.since(0)]
    assert began
    assert not [b for b, _ in watch.since(time.monotonic()) if b in began]


def test_it_ends_and_may_be_ended_again(watch: Stalls) -> None:
    watch.end()
    assert watch._process.returncode is not None
    watch.end()
