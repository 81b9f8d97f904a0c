"""What is desired, kept over a restart of the container: a file of the stream's own frames.

The directory is a volume in memory that lives as long as the pod. Passwords of BGP peers are in the
file, so only its owner may read it. A file that is not whole, or of another version, is as none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from metallb_common.obs import logs
from metallb_speaker import __version__, stream

NAME = "desired.state"


class StateFile:
    """`path` is "" where the directory cannot be written: then nothing is kept, and that is said once."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, NAME) if directory and os.access(directory, os.W_OK | os.X_OK) else ""
        if not self.path:
            logs.info(op="state", msg="no writable state directory: a restart begins from nothing", directory=directory)

    def load(self, reader: stream.DesiredReader) -> list[stream.Event]:
        """Feed `reader` with what was kept; the events of it, [] when there is nothing usable."""
        if not self.path:
            return []
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as failure:
            logs.warn(op="state", msg="what was kept cannot be read", error=str(failure))
            return []
        trial = stream.DesiredReader()
        try:
            events = trial.receive(data)
        except stream.StreamError as failure:
            logs.warn(op="state", msg="what was kept is not usable", error=str(failure))
            return []
        if not events or not isinstance(events[-1], stream.Complete):
            logs.warn(op="state", msg="what was kept is not whole")
            return []
        reader.receive(data)
        return events

    def save(self, reader: stream.DesiredReader) -> Iterator[None]:
        """Write what `reader` holds now, one frame per step; the old file is replaced at the end."""
        if not self.path:
            return
        writer = stream.DesiredWriter()
        writer.items = dict(reader.items)  # as of now, whatever comes meanwhile
        temporary = f"{self.path}.new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(stream.hello(__version__))
                for frame in writer.take():
                    file.write(frame)
                    yield
            os.replace(temporary, self.path)
        except OSError as failure:
            logs.warn(op="state", msg="cannot be kept", error=str(failure))
            with contextlib.suppress(OSError):
                os.unlink(temporary)
