"""A router that accepts one session and throws a full table at it, as fast as the socket takes it.

Prints a line when it listens, and the number of messages when all are sent; then keeps the session.
Usage: ``python bgp_flood.py ADDRESS ROUTES``.
"""

from __future__ import annotations

import socket
import struct
import sys
import time


def message(kind: int, body: bytes) -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def main(address: str, count: int) -> None:
    listener = socket.create_server((address, 179))
    print("listening", flush=True)
    session, _ = listener.accept()
    capability = bytes.fromhex("0104000100014104") + struct.pack("!I", 64513)
    opened = struct.pack("!BHH4sB", 4, 64513, 90, bytes((192, 0, 2, 2)), len(capability) + 2)
    session.sendall(message(1, opened + bytes((2, len(capability))) + capability) + message(4, b""))
    session.recv(4096)
    time.sleep(2)
    messages, sent, parts = 0, 0, []
    while sent < count:
        attributes = bytes.fromhex("40010100" + "50020006" + "0201") + struct.pack("!I", 64513)
        attributes += b"\x40\x03\x04" + bytes((192, 0, 2, 2))
        size = min(4 + messages % 2, count - sent)
        nlri = b"".join(b"\x18" + (0x010000 + sent + i).to_bytes(3) for i in range(size))
        parts.append(message(2, struct.pack("!HH", 0, len(attributes)) + attributes + nlri))
        messages, sent = messages + 1, sent + size
    session.sendall(b"".join(parts))
    print(messages, flush=True)
    while True:
        time.sleep(20)
        session.sendall(message(4, b""))


main(sys.argv[1], int(sys.argv[2]))
