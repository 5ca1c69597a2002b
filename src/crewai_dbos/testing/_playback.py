"""Sending one reply the way the script asked: whole, late, held back, in part or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import _openai_wire as wire
from .replies import ApiError, Delayed, Drop, Hang, Message, Reply
from .request import Request


class TransportProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the connection reachable from the application.

    ASGI has no way to close a connection without a reply; a dropped connection needs one.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Playback:
    """The ASGI response that plays `reply` to `request`."""

    def __init__(self, request: Request, reply: Reply) -> None:
        self._request = request
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = self._reply
        while True:
            match reply:
                case Delayed(seconds=seconds):
                    waiting = asyncio.sleep(seconds)
                case Hang(partway=False):
                    waiting = _held(reply)
                case _:
                    break
            if not await _ends_before_disconnect(waiting, receive):
                return
            reply = reply.then

        match reply:
            case ApiError():
                await error_response(reply)(scope, receive, send)
            case Drop():
                if reply.partway is not None:
                    await self._send_half(reply.partway, send)
                scope["state"]["transport"].abort()
                # Returning before uvicorn has noticed the loss would make it send a 500.
                await _disconnect(receive)
            case Hang(then=Message() as message):
                rest = await self._send_half(message, send)
                if await _ends_before_disconnect(_held(reply), receive):
                    await _send_body(send, rest, more_body=False)
            case Message():
                rest = await self._send_half(reply, send)
                await _send_body(send, rest, more_body=False)

    async def _send_half(self, message: Message, send: Send) -> list[bytes]:
        """Send the status, the headers and half of the body; return the other half."""
        if self._request.stream:
            parts = wire.events(self._request, message)
            headers = [(b"content-type", b"text/event-stream")]
        else:
            body = json.dumps(wire.completion(self._request, message)).encode()
            parts = [body[: len(body) // 2], body[len(body) // 2 :]]
            length = str(len(body)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        headers.append((b"x-request-id", f"req_{self._request.number}".encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        half = (len(parts) + 1) // 2
        await _send_body(send, parts[:half], more_body=True)
        return parts[half:]


def error_response(reply: ApiError) -> JSONResponse:
    """The response for an error reply."""
    headers = {} if reply.retry_after is None else {"retry-after": f"{reply.retry_after:g}"}
    return JSONResponse(wire.error_body(reply), reply.status, headers)


async def _send_body(send: Send, parts: Sequence[bytes], *, more_body: bool) -> None:
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    if not more_body:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _held(hang: Hang) -> None:
    """Wait for a release, which comes from another thread."""
    loop, released = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        # The loop is closed when a test releases what it held after stopping the server.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(released.set)

    hang.hold(wake)
    await released.wait()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _ends_before_disconnect(waiting: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Wait for `waiting`, or give up and return False when the client goes away first."""
    wait = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(_disconnect(receive))
    await asyncio.wait({wait, gone}, return_when=asyncio.FIRST_COMPLETED)
    ended = wait.done()
    for task in (wait, gone):
        task.cancel()
    await asyncio.gather(wait, gone, return_exceptions=True)
    return ended
