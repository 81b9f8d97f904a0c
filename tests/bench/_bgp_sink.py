"""A router that takes one session after the other, and says when the last of the prefixes it waits for arrived.

Prints a line when it listens. Then, for the first session that brings them all: the milliseconds from our OPEN
and KEEPALIVE (the peer may be Established then) to the message that completed COUNT distinct prefixes, and the octets.
It decodes just enough: NLRI of IPv4. Usage: ``python _bgp_sink.py ADDRESS COUNT``.
"""

from __future__ import annotations

import socket
import struct
import sys
import time


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def nlri(body: bytes) -> set[bytes]:
    withdrawn = int.from_bytes(body[:2])
    start = 4 + withdrawn + int.from_bytes(body[2 + withdrawn : 4 + withdrawn])
    out = set()
    while start < len(body):
        size = 1 + (body[start] + 7) // 8
        out.add(body[start : start + size])
        start += size
    return out


def take(session: socket.socket, count: int) -> tuple[float, int] | None:
    """Seconds and octets; None when the session ended before all were there."""
    capabilities = bytes.fromhex("010400010001" + "4104") + struct.pack("!I", 64513)
    opened = struct.pack("!BHH4sB", 4, 64513, 90, bytes((192, 0, 2, 2)), len(capabilities) + 2)
    session.sendall(message(1, opened + bytes((2, len(capabilities))) + capabilities) + message(4))
    start = time.monotonic()
    arrived: list[tuple[float, bytes]] = []
    data, total, seen = bytearray(), 0, 0
    # First keep what comes with its time, then look at it: decoding must not be on the clock.
    while part := session.recv(1 << 18):
        now = time.monotonic()
        data += part
        total += len(part)
        position = 0
        while len(data) - position >= 19:
            length, kind = struct.unpack_from("!HB", data, position + 16)
            if len(data) - position < length:
                break
            if kind == 2:
                arrived.append((now, bytes(data[position + 19 : position + length])))
                seen += length - 19
            position += length
        del data[:position]
        if seen >= count * 5:
            found: set[bytes] = set()
            for at, body in arrived:
                found |= nlri(body)
                if len(found) == count:
                    return at - start, total
    return None


def main(address: str, count: int) -> None:
    listener = socket.create_server((address, 179))
    print("listening", flush=True)
    while True:
        session, _ = listener.accept()
        try:
            result = take(session, count)
        except ConnectionError:
            continue
        if result is not None:
            print(f"{result[0] * 1000:.2f} {result[1]}", flush=True)
            time.sleep(1)
            return


main(sys.argv[1], int(sys.argv[2]))
