"""What the subcommands of `metallb-config` share: reading a file, and what their exit statuses mean."""

from __future__ import annotations

import sys

#: Exit statuses: clean or warnings only; errors; a file could not be read.
OK, ERRORS, UNREADABLE = 0, 1, 2


def read(name: str) -> bytes:
    """The bytes of a file; `-` is standard input. Raises OSError."""
    if name == "-":
        return sys.stdin.buffer.read()
    with open(name, "rb") as file:
        return file.read()
