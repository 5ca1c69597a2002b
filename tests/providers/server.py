"""A model on 127.0.0.1 that speaks the protocol of a provider, for its real SDK."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from crewai_dbos.testing.replies import ApiError, Drop, Message

Reply = Message | ApiError | Drop


@dataclass(frozen=True)
class Asked:
    """One request, as every protocol asks it.

    Attributes:
        path: Where it was sent.
        body: What was sent.
        turns: How often the model has answered in this conversation.
        results: What its tools have returned, as texts.
        wants: Whether an object is asked for, and not a text.
        stream: Whether the answer is to come piece by piece.
    """

    path: str
    body: Mapping[str, Any]
    turns: int = 0
    results: list[str] = field(default_factory=list)
    wants: bool = False
    stream: bool = False

    @property
    def text(self) -> str:
        """All that was sent, for tests that look for something in it."""
        return json.dumps([self.path, self.body], sort_keys=True)


class Wire(Protocol):
    """The protocol of a provider.

    Attributes:
        name: Of the provider.
    """

    name: str

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        """What a request asks."""

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        """The content type and the pieces of an answer."""

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        """Headers and the body of an error."""


Script = Callable[[Asked], Reply]


class ProviderServer:
    """Answers in the protocol `wire` what `script` says.

    Attributes:
        requests: Those for an answer, in order of arrival.
        counted: How often somebody asked how many tokens there are.
    """

    def __init__(self, wire: Wire, script: Script) -> None:
        self.wire = wire
        self.script = script
        self.requests: list[Asked] = []
        self.counted = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"model": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[ProviderServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def sent(self) -> Counter[str]:
        """How often each request was made."""
        return Counter(asked.text for asked in self.requests)

    def reply(self, path: str, body: Mapping[str, Any]) -> tuple[Asked, Reply]:
        asked = self.wire.asked(path, body)
        with self._lock:
            self.requests.append(asked)
            return asked, self.script(asked)


_COUNTING = ("count_tokens", "count-tokens", ":countTokens", "input_tokens")


class _Handler(BaseHTTPRequestHandler):
    model: ProviderServer
    protocol_version = "HTTP/1.1"
    # Else each answer waits for the client to have acknowledged its headers.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith(_COUNTING):
            self.model.counted += 1
            count = json.dumps({"input_tokens": 9, "inputTokens": 9, "totalTokens": 9})
            self._send(200, "application/json", [count.encode()], {})
            return
        asked, reply = self.model.reply(self.path, body)
        if isinstance(reply, Drop):
            self.close_connection = True
        elif isinstance(reply, ApiError):
            headers, said = self.model.wire.error(reply)
            if reply.retry_after is not None:
                headers = {**headers, "retry-after": str(reply.retry_after)}
            self._send(reply.status, "application/json", [json.dumps(said).encode()], headers)
        else:
            self._send(200, *self.model.wire.answer(asked, reply), {})

    def _send(
        self, status: int, kind: str, pieces: list[bytes], headers: Mapping[str, str]
    ) -> None:
        body = b"".join(pieces)
        self.send_response(status)
        for name, text in {"content-type": kind, "content-length": len(body), **headers}.items():
            self.send_header(name, str(text))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def sse(*events: Mapping[str, Any], named: bool = False, done: bool = False) -> list[bytes]:
    """Server-sent events, with the type of each as its name if it is `named`."""
    pieces = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        pieces.append(f"{name}data: {json.dumps(event)}\n\n".encode())
    return [*pieces, b"data: [DONE]\n\n"] if done else pieces
