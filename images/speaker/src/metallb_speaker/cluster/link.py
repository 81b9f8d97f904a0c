"""The cluster half's end of the stream: connects, sends what is desired, takes reports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

from metallb_common.obs import logs
from metallb_speaker import __version__, stream

#: Seconds between states when nothing changes: the announcer tells a hung cluster half by their absence.
STATE_PERIOD = 2.0
#: Seconds before the next try to connect: the announcer is a local process that starts in less.
RETRY = 0.3
#: Bytes under way before `drain` waits: bounds what a slow announcer costs us.
HIGH_WATER = 1 << 18


class Link:
    """Runs for ever over a unix socket's path; over an inherited socket until its end."""

    def __init__(
        self,
        where: str | socket.socket,
        writer: stream.DesiredWriter,
        settle: Callable[[], bool],
        state: Callable[[], stream.State],
        report: Callable[[stream.Report], None],
    ) -> None:
        """`settle` brings `writer` up to date and says whether anything may be sent yet."""
        self._where, self._writer = where, writer
        self._settle, self._state, self._report = settle, state, report
        self._wake = asyncio.Event()
        self.connected = False

    def wake(self) -> None:
        """Something changed: settle and send soon."""
        self._wake.set()

    async def run(self) -> None:
        said = False
        while True:
            try:
                reader, output = await self._connect()
            except OSError as failure:
                if not said:
                    logs.info(op="link", msg="waiting for the announcer", socket=str(self._where), error=str(failure))
                    said = True
                self._settle()  # keep up meanwhile: numbers and logs do not wait for the announcer
                await asyncio.sleep(RETRY)
                continue
            said = False
            self.connected = True
            try:
                await self._talk(reader, output)
            except (OSError, stream.StreamError, EOFError) as failure:
                logs.warn(op="link", msg="the stream to the announcer ended", error=str(failure) or "end of stream")
            finally:
                self.connected = False
                output.close()
                with contextlib.suppress(OSError):
                    await output.wait_closed()
            if isinstance(self._where, socket.socket):
                return
            await asyncio.sleep(RETRY)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._where, socket.socket):
            reader, output = await asyncio.open_unix_connection(sock=self._where)
        else:
            reader, output = await asyncio.open_unix_connection(self._where)
        output.transport.set_write_buffer_limits(high=HIGH_WATER)
        return reader, output

    async def _talk(self, reader: asyncio.StreamReader, output: asyncio.StreamWriter) -> None:
        output.write(stream.hello(__version__))
        self._writer.again()
        tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._send(output))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        upstream = stream.UpstreamReader()
        while data := await reader.read(1 << 16):
            for message in upstream.receive(data):
                if isinstance(message, stream.Again):
                    self._writer.again()
                    self.wake()
                elif not isinstance(message, stream.Hello):
                    self._report(message)
        raise EOFError

    async def _send(self, output: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        last: stream.State | None = None
        due = 0.0
        while True:
            self._wake.clear()
            frames: Iterator[bytes] = self._writer.take() if self._settle() else iter(())
            for data in frames:
                output.write(data)
                await output.drain()
            state = self._state()
            if loop.time() >= due or last is None or (state.synced, state.problems) != (last.synced, last.problems):
                output.write(stream.state(state))
                await output.drain()
                last, due = state, loop.time() + STATE_PERIOD
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, due - loop.time()))
