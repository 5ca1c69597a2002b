"""A small HTTP server for probes, which nobody can keep busy."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from crewai_dbos.errors import DefinitionError

logger = logging.getLogger("crewai_dbos")

AT_ONCE = 8
"""Connections. One more ends that which has been there for longest."""

SECONDS = 10.0
"""A connection lasts no longer, whatever comes over it."""


@dataclass(frozen=True)
class Page:
    """What is answered."""

    content: bytes
    type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[str], Page]]
"""By path, what makes a page, given the types that the client accepts."""


class HealthServer:
    """Serves pages on a thread, until it is closed.

    Args:
        host: The address to listen at.
        port: Its port; 0 for any that is free.
        pages: What is there.

    Raises:
        DefinitionError: It can't listen there.
    """

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._server = _Server(address, family, pages)
        except OSError as error:
            raise DefinitionError(
                f"The worker can't serve its health at {host}:{port} ({error.strerror or error}). "
                "Give another health_port (--health-port), 0 for any that is free, or an address "
                "of this machine as health_host (--health-host)."
            ) from None
        self.port = int(self._server.server_address[1])
        threading.Thread(
            target=self._server.serve_forever, name="crewai-dbos-health", daemon=True
        ).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.TCPServer):
    """Few threads, and each connection for a short time only.

    Not `http.server.HTTPServer`, which asks a name server what the host is called.
    """

    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, address: Any, family: socket.AddressFamily, pages: Pages) -> None:
        self.address_family = family
        self.pages = pages
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # in the order of their coming
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self._cut(only_first=True)
            if not self._free.acquire(timeout=0.5):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        thread = threading.Thread(
            target=self._serve,
            args=(request, client_address),
            name="crewai-dbos-health",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # there are too many threads: the next one may be answered
            self._over(request)

    def service_actions(self) -> None:
        self._cut()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the worker's."""

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self._over(request)

    def _over(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
        self.shutdown_request(request)
        self._free.release()

    def _cut(self, *, only_first: bool = False) -> None:
        """End the connections that last too long, or only the one that has lasted longest."""
        oldest = time.monotonic() - SECONDS
        with self._lock:
            every = list(self._open.items())
            late = every[:1] if only_first else [each for each in every if each[1] < oldest]
            for request, _ in late:
                del self._open[request]
                _end(request)


def _end(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was quicker
        request.shutdown(socket.SHUT_RDWR)


def _made(make: Callable[[str], Page], accept: str) -> Page:
    try:
        return make(accept)
    except Exception as error:
        logger.exception("A worker can't say how it is.")
        return Page(f"{type(error).__name__}\n".encode(), status=500)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5.0
    server: _Server
    server_version = "crewai-dbos"
    sys_version = ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain"

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            there = ", ".join(self.server.pages)
            page = Page(f"Not here. There are {there}.\n".encode(), status=404)
        else:
            page = _made(make, self.headers.get("Accept") or "")
        self._answer(page)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(Page(b"Only GET and HEAD.\n", status=405), {"Allow": "GET, HEAD"})

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """A probe a second is no news."""

    def _answer(self, page: Page, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.type)
        self.send_header("Content-Length", str(len(page.content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.content)
