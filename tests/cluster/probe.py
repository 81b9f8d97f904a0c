"""Fetches one page over and over: a program of its own, for use inside a host's network namespace.

``probe.py ADDRESS PORT PATH EVERY TIMEOUT`` (seconds). An attempt starts every EVERY seconds, whether or not those
before have ended, each on a new connection. A line on standard input asks for a report: one JSON object on one line,
``{"attempts": [[start, end, text], ...], "stalls": [[start, end], ...]}``, times by the monotonic clock (the same for
all processes of a machine), text the page or ``!`` and an error; ``!broken: `` and an error if a connection had come
about. Errors end with the port of this side. Stalls are stretches of more than STALL seconds in which this program did
not run though it wanted to: what was under way then says more about the machine than about the page. End of input ends
the program.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import sys
import time

BYTES = 64 * 1024
#: Seconds: what is a stall, and how often it is looked for.
STALL, TICK = 0.3, 0.05


class Trace:
    """What is known of an attempt, however it ended."""

    connected = False
    port = 0


async def fetch(address: str, port: int, path: str, trace: Trace) -> str:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException as error:
        trace.port = sock.getsockname()[1]
        # A reset before there is a connection is ECONNREFUSED, one of a connection is ECONNRESET (Linux, tcp_reset): it
        # came about, and ended before this program had looked.
        trace.connected = isinstance(error, OSError) and error.errno == errno.ECONNRESET
        sock.close()
        raise
    trace.connected, trace.port = True, sock.getsockname()[1]
    reader, writer = await asyncio.open_connection(sock=sock)
    # Close by RST: else the backend would hold the pair of ports for a minute, and a connection to another address that
    # happens on the same port, by way of the same node, would look like an old one, and wait.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        host = f"[{address}]" if ":" in address else address
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(BYTES)
        while not reader.at_eof() and len(answer) < BYTES:
            answer += await reader.read(BYTES)
    finally:
        writer.close()
    head, _, page = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        return "!" + (head.split(b"\r\n", 1)[0].decode(errors="replace") or "closed without an answer")
    return page.decode(errors="replace")


async def attempt(results: list[tuple[float, float, str]], where: tuple[str, int, str], limit: float) -> None:
    start = time.monotonic()
    trace = Trace()
    try:
        text = await asyncio.wait_for(fetch(*where, trace), limit)
    except TimeoutError:
        text = "!timeout"
    except OSError as error:
        text = f"!{os.strerror(error.errno) if error.errno else repr(error)}"
    if text.startswith("!"):
        text = f"!{'broken: ' if trace.connected else ''}{text[1:]} (port {trace.port})"
    results.append((start, time.monotonic(), text))


async def main(address: str, port: int, path: str, every: float, limit: float) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    results: list[tuple[float, float, str]] = []
    stalls: list[tuple[float, float]] = []
    running: set[asyncio.Task[None]] = set()

    async def repeat() -> None:
        following = loop.time()
        while True:
            task = asyncio.create_task(attempt(results, (address, port, path), limit))
            running.add(task)
            task.add_done_callback(running.discard)
            # What a stall has held up is not made up for: so many connections at once overflow a backend's queue.
            following = max(following + every, loop.time() - 2 * every)
            await asyncio.sleep(max(0.0, following - loop.time()))

    async def notice() -> None:
        while True:
            start = time.monotonic()
            await asyncio.sleep(TICK)
            if (end := time.monotonic()) - start > TICK + STALL:
                stalls.append((start, end))

    helpers = [asyncio.create_task(repeat()), asyncio.create_task(notice())]
    while await asked.readline():
        await asyncio.sleep(2 * TICK)  # a stall that has just ended is on record before anything is told
        print(json.dumps({"attempts": sorted(results), "stalls": stalls}), flush=True)
    for helper in helpers:
        helper.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5])))
