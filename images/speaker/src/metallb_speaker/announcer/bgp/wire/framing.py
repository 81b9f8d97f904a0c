"""Message framing (RFC 4271 section 4.1, RFC 8654 for extended messages).

0                   16  18  19
| marker: 16 × 0xFF | length | type | body ...
"""

from __future__ import annotations

import struct
from enum import IntEnum

from .errors import BAD_LENGTH, BAD_TYPE, NOT_SYNCHRONIZED, Code, NotificationError

MARKER = b"\xff" * 16
HEADER = 19
MAX_MESSAGE = 4096  # RFC 4271 section 4.1
MAX_EXTENDED = 65535  # RFC 8654 section 4


class MessageType(IntEnum):
    OPEN = 1
    UPDATE = 2
    NOTIFICATION = 3
    KEEPALIVE = 4
    ROUTE_REFRESH = 5  # RFC 2918


#: Smallest whole message by type (RFC 4271 section 6.1); ROUTE-REFRESH is judged by its decoder.
MIN_LENGTH = {
    MessageType.OPEN: 29,
    MessageType.UPDATE: 23,
    MessageType.NOTIFICATION: 21,
    MessageType.KEEPALIVE: 19,
    MessageType.ROUTE_REFRESH: 19,
}

_LENGTH_TYPE = struct.Struct("!HB")


def frame(kind: MessageType, body: bytes = b"") -> bytes:
    """A whole message. The caller keeps the body inside the negotiated maximum."""
    return MARKER + _LENGTH_TYPE.pack(HEADER + len(body), kind) + body


KEEPALIVE = frame(MessageType.KEEPALIVE)


class Framer:
    """Cuts a TCP stream into messages.

    A peer can make us hold at most one incomplete message (64 KiB when extended): the buffer is
    consumed by `messages` before more is fed. UPDATE bodies are not copied unless `want_updates`:
    a full table of routes that nobody reads must cost next to nothing.
    """

    def __init__(self) -> None:
        self.maximum = MAX_MESSAGE
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[MessageType, bytes]]:
        """The messages that are complete now, as (type, body); the body of an UPDATE is empty.

        Raises NotificationError; the stream is then of no further use. Messages in front of the
        fault are lost with it, which is sound: the session ends in any case.
        """
        buffer = self._buffer
        buffer += data
        out: list[tuple[MessageType, bytes]] = []
        position, available, maximum = 0, len(buffer), self.maximum
        unpack = _LENGTH_TYPE.unpack_from
        while available - position >= HEADER:
            if not buffer.startswith(MARKER, position):
                raise NotificationError(Code.MESSAGE_HEADER, NOT_SYNCHRONIZED)
            length, kind = unpack(buffer, position + 16)
            if not 1 <= kind <= 5:
                raise NotificationError(Code.MESSAGE_HEADER, BAD_TYPE, bytes((kind,)))
            limit = MAX_MESSAGE if kind in (MessageType.OPEN, MessageType.KEEPALIVE) else maximum
            bad = length < MIN_LENGTH[kind] or length > limit or (kind == 4 and length != HEADER)
            if bad:
                raise NotificationError(Code.MESSAGE_HEADER, BAD_LENGTH, length.to_bytes(2))
            if available - position < length:
                break
            if kind == 2:
                out.append((MessageType.UPDATE, b""))
            else:
                out.append((MessageType(kind), bytes(buffer[position + HEADER : position + length])))
            position += length
        if position:
            del buffer[:position]
        return out
