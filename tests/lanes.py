"""All tests, in lanes side by side: the end-to-end suites; and what only computes, followed by all others in two.

What only computes (`COMPUTING`) yields the cores to the end-to-end lane, where packets are timed; all others wait for
timers most of their time. `python -m tests.lanes`. One lane's lines come as they are written, those of another when the
one before is done. The exit status is 1 if anything failed, 130 after INT or TERM: then everything ends in order first,
and takes down what it started.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import BinaryIO

END_TO_END = ("tests/e2e",)
COMPUTING = ("tests/unit", "tests/property", "tests/vectors", "tests/chart")
ROUTERS = ("tests/integration/bgp",)
#: Everything that is in no lane by name, so that a new suite is run without being named here.
OTHERS = ("tests", *(f"--ignore={folder}" for folder in END_TO_END + COMPUTING + ROUTERS))

Process = subprocess.Popen[bytes]


def _pytest(arguments: tuple[str, ...], *, nice: int = 0, output: BinaryIO | None = None) -> Process:
    command = ["nice", "-n", str(nice), sys.executable, "-m", "pytest", *arguments]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None)


def _copy(lines: BinaryIO) -> None:
    """What was written since the last call."""
    sys.stdout.buffer.write(lines.read())
    sys.stdout.buffer.flush()


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run all; gives the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(
        signal.SIGINT, _stop
    )  # also where a shell has set it to be ignored: so it is the default in the lanes
    runs: dict[str, Process] = {}
    with contextlib.ExitStack() as stack:
        aside: dict[str, BinaryIO] = {}

        def start(name: str, arguments: tuple[str, ...]) -> None:
            """One whose lines are shown later, by `show`."""
            written = stack.enter_context(tempfile.NamedTemporaryFile())
            aside[name] = stack.enter_context(open(written.name, "rb"))
            runs[name] = _pytest(arguments, output=written.file)  # type: ignore[arg-type]

        def show(name: str) -> None:
            print(f"\n--- {name} ---", flush=True)
            while runs[name].poll() is None:
                _copy(aside[name])
                time.sleep(0.5)
            _copy(aside[name])

        try:
            start("end to end", (*END_TO_END, "--durations=12"))
            runs["unit, property, vectors, chart"] = _pytest(COMPUTING, nice=10)
            runs["unit, property, vectors, chart"].wait()
            start("routers", ROUTERS)
            runs["all others"] = _pytest(OTHERS)
            runs["all others"].wait()
            show("routers")
            show("end to end")
        except KeyboardInterrupt:
            for run in runs.values():
                if run.poll() is None:
                    run.send_signal(signal.SIGINT)
            for run in runs.values():
                run.wait()
            return 130
    for name, run in runs.items():
        print(f"{name}: {'passed' if run.returncode == 0 else f'failed (exit status {run.returncode})'}")
    return int(any(run.returncode for run in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
