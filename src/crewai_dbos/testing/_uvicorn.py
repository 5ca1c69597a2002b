"""A web server for tests: there at once, and gone at once."""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn


class Server(uvicorn.Server):
    """uvicorn, stopping at once.

    The original looks for a stop ten times a second and then waits for its clients. Tests start
    and stop many servers, and cut their clients off on purpose.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self.ready.set()
        await self._stopped.wait()

    def stop(self) -> None:
        """Make `main_loop` return; called from another thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the aborted connections close on the next turn of the loop
