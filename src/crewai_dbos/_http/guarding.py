"""What every endpoint has around it: who is asking, how much they send, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from crewai_dbos._http.auth import Access, Caller
from crewai_dbos._http.problems import HEADERS, Problem, problem_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def guarded(access: Access, max_body: int) -> type[APIRoute]:
    """The class of routes behind `access`, which take at most `max_body` bytes."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def guard(request: Request) -> Response:
                try:
                    request.state.crewai_dbos = await access.authenticate(request)
                    response = await handle(await limited(request, max_body))
                except Exception as error:
                    return problem_of(error).response()
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
                return response

            return guard

    return Guarded


def _caller(request: Request) -> Caller:
    found: Caller = request.state.crewai_dbos
    return found


Asking = Annotated[Caller, Depends(_caller)]
"""Who sends the request, as an argument of an endpoint."""


async def limited(request: Request, max_body: int) -> Request:
    """`request` with its body read.

    Raises:
        Problem: It is too long.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18:
        raise Problem(400, "Content-Length is no number.", "invalid")
    body = bytearray()
    if int(length) <= max_body:
        async for piece in request.stream():
            body += piece
            if len(body) > max_body:
                break
    if max(int(length), len(body)) > max_body:
        raise Problem(413, f"A request has at most {max_body:,} bytes.", "too-large")
    receive, is_given = request.receive, False

    async def again() -> Any:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return Request(request.scope, again)
