"""All tests, in two lanes side by side: the end-to-end suites, and all others. Both wait most of their time.

`python -m tests.lanes`. The lines of the end-to-end lane come when the other lane is done. The exit status is 1 if
either failed, 130 after INT or TERM: then both end in order first, and take down what they started.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from typing import BinaryIO

OTHERS = ("--ignore=tests/e2e", "tests")
END_TO_END = ("tests/e2e",)


def _pytest(*arguments: str, output: BinaryIO | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None)


def _copy(lines: BinaryIO) -> None:
    """What was written since the last call."""
    sys.stdout.buffer.write(lines.read())
    sys.stdout.buffer.flush()


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run both; gives the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(
        signal.SIGINT, _stop
    )  # also where a shell has set it to be ignored: so it is the default in the lanes
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as lines:
        lanes = [_pytest(*END_TO_END, output=written.file), _pytest(*OTHERS)]  # type: ignore[arg-type]
        try:
            lanes[1].wait()
            print("\n--- end to end ---", flush=True)
            while lanes[0].poll() is None:
                _copy(lines)
                time.sleep(0.5)
            _copy(lines)
        except KeyboardInterrupt:
            for lane in lanes:
                if lane.poll() is None:
                    lane.send_signal(signal.SIGINT)
            for lane in lanes:
                lane.wait()
            return 130
    for name, lane in (("end to end", lanes[0]), ("all others", lanes[1])):
        print(f"{name}: {'passed' if lane.returncode == 0 else f'failed (exit status {lane.returncode})'}")
    return int(any(lane.returncode for lane in lanes))


if __name__ == "__main__":
    sys.exit(main())
