"""A way from an API server to its etcd that can be closed for requests about certain keys.

What the server has not read yet, it does not know: so states of its start that last for milliseconds, and
that no test may hope to meet, are held for as long as they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType


class EtcdGate:
    """Passes on what comes to `port`, on loopback. While it is closed, a connection stops at the first word of a key.

    Closed at first. A connection carries many requests: those behind the one that waits, wait too.
    """

    def __init__(self, etcd_port: int, *keys: bytes) -> None:
        self._etcd_port, self._keys = etcd_port, keys
        self._loop = asyncio.new_event_loop()
        self._way = asyncio.Event()
        self._pipes: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.stopped = 0
        """Connections that have been stopped so far."""

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._way.set)

    def __enter__(self) -> EtcdGate:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_etcd = await asyncio.open_connection("127.0.0.1", self._etcd_port)
        for pipe in (self._pipe(reader, to_etcd[1], self._keys), self._pipe(to_etcd[0], writer, ())):
            task = asyncio.create_task(pipe)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: tuple[bytes, ...]) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while data := await reader.read(65536):
                if not self._way.is_set() and any(key in data for key in keys):
                    self.stopped += 1
                    await self._way.wait()
                writer.write(data)
                await writer.drain()
