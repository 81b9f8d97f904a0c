"""Frames: a 4-byte big-endian length and that many bytes of UTF-8 JSON, at most MAX_FRAME."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: An item is below 1 KiB, a list of 5,000 node names below 400 KiB; beyond this the peer is broken.
MAX_FRAME = 1 << 20

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # `json.dumps` would make one for each


class StreamError(ValueError):
    """Bytes that are no stream of ours, or of another version: the connection is to be closed."""


def frame(message: Mapping[str, Any]) -> bytes:
    """One message as bytes. Raises StreamError when it is too large."""
    body = _encode(message).encode("utf-8", "surrogatepass")
    if len(body) > MAX_FRAME:
        raise StreamError(f"a frame of {len(body)} bytes")
    return len(body).to_bytes(4, "big") + body


class FrameReader:
    """Bytes in, messages out, one at a time: `next()` decodes no more than one."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> dict[str, Any] | None:
        """The next whole message; None when there is none yet. Raises StreamError."""
        if len(self._data) < 4:
            return None
        size = int.from_bytes(self._data[:4], "big")
        if size > MAX_FRAME:
            raise StreamError(f"a frame of {size} bytes announced")
        if len(self._data) < 4 + size:
            return None
        body = bytes(self._data[4 : 4 + size])
        del self._data[: 4 + size]
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            raise StreamError("a frame that is not JSON") from None
        if type(message) is not dict or type(message.get("t")) is not str:
            raise StreamError("a frame without a type")
        return message


def text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if type(value) is not str:
        raise StreamError(f"no text {name}")
    return value


def number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise StreamError(f"no number {name}")
    return value


def texts(value: Any) -> tuple[str, ...]:
    if type(value) is not list or not all(type(entry) is str for entry in value):
        raise StreamError("no list of texts")
    return tuple(value)
