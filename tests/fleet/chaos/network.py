"""The network between one worker and the database: it can stand still, or be cut."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


class Network:
    """A TCP proxy on 127.0.0.1.

    Args:
        port: Of the database.
        loop: In which it works, on a thread of its own.
    """

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port = 0
        self._to = port
        self._loop = loop
        self._moves = asyncio.Event()
        self._over = asyncio.Event()
        self._is_cut = False
        self._open: set[asyncio.StreamWriter] = set()

    def stall(self) -> None:
        """From now on nothing comes through, in either direction, and no connection ends."""
        self._loop.call_soon_threadsafe(self._moves.clear)

    def cut(self) -> None:
        """End every connection, and every new one at once."""

        def now() -> None:
            self._is_cut = True
            for writer in self._open:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(now)

    def mend(self) -> None:
        def now() -> None:
            self._is_cut = False
            self._moves.set()

        self._loop.call_soon_threadsafe(now)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        await self._moves.wait()
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, to_writer}
        pumps = self._pump(reader, to_writer), self._pump(to_reader, writer)
        await asyncio.wait([asyncio.ensure_future(pump) for pump in pumps])
        self._open -= {writer, to_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._moves.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _serve(self, is_up: threading.Event) -> None:
        self._moves.set()
        server = await asyncio.start_server(self._connect, "127.0.0.1")
        self.port = server.sockets[0].getsockname()[1]
        is_up.set()
        await self._over.wait()
        server.close()
        self._moves.set()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in self._open:
                writer.transport.abort()
            await asyncio.wait(tasks, timeout=0.1)


@contextlib.contextmanager
def network(port: int) -> Iterator[Network]:
    """A network to this port, which is gone after the block."""
    loop, is_up = asyncio.new_event_loop(), threading.Event()
    found = Network(port, loop)

    def serve() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(found._serve(is_up))

    thread = threading.Thread(target=serve, name="network", daemon=True)
    thread.start()
    is_up.wait()
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(found._over.set)
        thread.join(10)
