"""When the machine itself stood still, so that a test of real time can tell this from a fault of the product.

A process beside the tests sleeps for a moment and looks at the clock, again and again. Where it wakes late, every
process of this machine may have: a virtual machine that is paused, or has more to run than cores. A test that fails
in such a moment is run again (`tests/conftest.py`), and the run says so; one that fails without is a failure at once.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Seconds between looks, and how late one must be to count: more than a busy scheduler makes it, and less than the
#: shortest time that any test grants (BFD's three times 50 ms).
INTERVAL = 0.02
LATE = 0.12

_WATCH = """
import sys, time
interval, late = float(sys.argv[1]), float(sys.argv[2])
before = time.monotonic()
while True:
    time.sleep(interval)
    now = time.monotonic()
    if now - before > interval + late:
        print(before, now, flush=True)
    before = now
"""


class Stalls:
    """The watching process, and what it has seen."""

    def __init__(self) -> None:
        self._seen = tempfile.NamedTemporaryFile(prefix="stalls-")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WATCH, str(INTERVAL), str(LATE)],
            stdout=self._seen.file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt at the terminal is for the tests
        )
        atexit.register(self.end)

    def since(self, start: float) -> list[tuple[float, float]]:
        """The stalls that ended after `start` (`time.monotonic()`): when each began, and its length, in seconds."""
        time.sleep(3 * INTERVAL)  # one that ends this moment is still to be written
        pairs = (line.split() for line in Path(self._seen.name).read_text().splitlines())
        return [(float(a), float(b) - float(a)) for a, b in pairs if float(b) > start]

    def end(self) -> None:
        """End the process; may be called twice."""
        atexit.unregister(self.end)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._seen.close()
