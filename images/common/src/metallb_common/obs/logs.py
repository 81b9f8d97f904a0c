"""Structured logs: one JSON object per line on standard output (contract section 4).

Fields: `ts`, `caller`, `level`, then what the caller gives; `event`, `op`, `msg`, `error`,
`service`, `ip`, `ips`, `pool`, `protocol` and `reason` are the standard names.
Levels: all, debug, info, warn, error, none.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import threading
from typing import Any, Protocol

LEVELS = {"all": 0, "debug": 10, "info": 20, "warn": 30, "error": 40, "none": 100}


class Stream(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


#: Made once: `json.dumps` with options of its own makes an encoder for each line.
_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode
_threshold = LEVELS["info"]
_stream: Stream | None = None
_lock = threading.Lock()


def configure(level: str, stream: Stream | None = None) -> None:
    """Set the lowest level that is written. Raises ValueError for a name that is no level."""
    global _threshold, _stream
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    _threshold, _stream = LEVELS[level], stream


def _write(level: str, fields: dict[str, Any]) -> None:
    if LEVELS[level] < _threshold:
        return
    frame = sys._getframe(2)
    now = datetime.datetime.now(datetime.UTC)
    record = {
        "ts": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "caller": f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}",
        "level": level,
        **fields,
    }
    line = _encode(record) + "\n"
    out: Stream = _stream or sys.stdout
    with _lock:
        try:
            out.write(line)
            out.flush()
        except (BrokenPipeError, ValueError):
            pass  # nobody reads any more: losing a log line must not end the process


def debug(**fields: Any) -> None:
    _write("debug", fields)


def info(**fields: Any) -> None:
    _write("info", fields)


def warn(**fields: Any) -> None:
    _write("warn", fields)


def error(**fields: Any) -> None:
    _write("error", fields)
