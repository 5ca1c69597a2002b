"""What the model server does with a request: it is kept, and the script is asked for the reply."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import _openai_wire as wire
from ._playback import Playback, error_response
from .replies import Message, Reply, error
from .request import SECRET_HEADERS, Request

Script = Callable[[Request], Reply | str]

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


class App:
    """The paths of OpenAI's API that crewAI uses.

    Args:
        script: Is asked for the reply to a chat request.
        dimensions: Of an embedding, unless the request says otherwise.
        check_history: Whether a conversation that OpenAI would refuse is refused.

    Attributes:
        faults: What was wrong with the script.
    """

    def __init__(self, script: Script, dimensions: int, check_history: bool) -> None:
        self._script = script
        self._dimensions = dimensions
        self._check_history = check_history
        self._arrived = threading.Condition()
        self._requests: list[Request] = []
        self.faults: list[str] = []

    def requests(self) -> list[Request]:
        """Every request so far, to any path, in order of arrival."""
        with self._arrived:
            return list(self._requests)

    def wait_for(self, path: str, count: int, timeout: float) -> list[Request]:
        """The requests to `path`, as soon as there are `count`; fewer after `timeout` seconds."""

        def there() -> list[Request]:
            return [request for request in self._requests if request.path == path]

        with self._arrived:
            self._arrived.wait_for(lambda: len(there()) >= count, timeout)
            return there()

    def routed(self) -> Starlette:
        """What a web server runs."""
        return Starlette(
            routes=[
                Route(CHAT, self._chat, methods=["POST"]),
                Route(EMBEDDINGS, self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/{path:path}", self._unknown, methods=["GET", "POST", "DELETE"]),
            ]
        )

    async def _chat(self, http: HttpRequest) -> Playback:
        request = await self._record(http)
        fault = wire.request_fault(request) if self._check_history else None
        if fault is not None:
            return Playback(request, fault)
        return Playback(request, await run_in_threadpool(self._ask_script, request))

    async def _embeddings(self, http: HttpRequest) -> Response:
        return JSONResponse(wire.embeddings(await self._record(http), self._dimensions))

    async def _models(self, http: HttpRequest) -> Response:
        await self._record(http)
        return JSONResponse(wire.models())

    async def _model(self, http: HttpRequest) -> Response:
        await self._record(http)
        return JSONResponse(wire.model(http.path_params["name"]))

    async def _unknown(self, http: HttpRequest) -> Response:
        request = await self._record(http)
        return error_response(error(404, message=f"Invalid URL ({http.method} {request.path})"))

    async def _record(self, http: HttpRequest) -> Request:
        try:
            body = json.loads(await http.body() or b"{}")
        except ValueError:
            body = {}  # refused further on, for what it lacks
        headers = dict(http.headers)
        secrets = SECRET_HEADERS & headers.keys()
        path = http.url.path
        with self._arrived:
            earlier = tuple(request for request in self._requests if request.path == path)
            request = Request(
                path=path,
                body=body,
                headers={name: headers[name] for name in headers.keys() - secrets},
                has_auth=bool(secrets),
                number=len(earlier) + 1,
                earlier=earlier,
            )
            self._requests.append(request)
            self._arrived.notify_all()
        return request

    def _ask_script(self, request: Request) -> Reply:
        try:
            reply = self._script(request)
            if not isinstance(reply, str | Reply):
                raise TypeError(f"{reply!r} is not a reply")
        except Exception as problem:
            what = f"{type(problem).__name__}: {problem}"
            fault = f"the script failed at request {request.number}: {what}"
            self.faults.append(fault)
            return error(400, message=fault, code="script_error")
        return Message(reply) if isinstance(reply, str) else reply
