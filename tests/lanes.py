"""All tests, in two lanes side by side: the end-to-end suites; and all others, one suite after the other.

Both wait most of their time. What only computes (`COMPUTING`) yields the cores to the other lane, where packets are
timed. `python -m tests.lanes`. The lines of the end-to-end lane come when the other lane is done. The exit status is 1
if anything failed, 130 after INT or TERM: then everything ends in order first, and takes down what it started.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from typing import BinaryIO

END_TO_END = ("tests/e2e",)
COMPUTING = ("tests/unit", "tests/property", "tests/vectors", "tests/chart")
#: Everything that is in no lane by name, so that a new suite is run without being named here.
OTHERS = ("tests", *(f"--ignore={folder}" for folder in END_TO_END + COMPUTING))

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
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as lines:
        runs: dict[str, Process] = {}
        try:
            runs["end to end"] = _pytest(END_TO_END, output=written.file)  # type: ignore[arg-type]
            runs["unit, property, vectors, chart"] = _pytest(COMPUTING, nice=10)
            runs["unit, property, vectors, chart"].wait()
            runs["all others"] = _pytest(OTHERS)
            runs["all others"].wait()
            print("\n--- end to end ---", flush=True)
            while runs["end to end"].poll() is None:
                _copy(lines)
                time.sleep(0.5)
            _copy(lines)
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
