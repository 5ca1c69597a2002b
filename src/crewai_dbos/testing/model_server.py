"""A scripted OpenAI-compatible model server on 127.0.0.1, for tests and offline demos."""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import uvicorn

from . import _access
from ._app import CHAT, EMBEDDINGS, App, Script
from ._playback import TransportProtocol
from ._uvicorn import Server
from .replies import Reply
from .request import Request


class ScriptError(AssertionError):
    """The script had no reply for a request: its list was used up, or it raised."""


class ModelServer:
    """A model server that answers from a script, started and stopped as a context manager.

    `script` is a function from `Request` to a reply, a list of replies used up in order of
    arrival, or a recording (`recorded`); a plain string stands for `text(...)`. The function runs
    in a worker thread, for several requests at once if they come at once. Only chat requests reach
    the script. A request the script cannot answer gets a 400 that no client retries, and leaving
    the `with` block raises `ScriptError`, or adds a note to the exception it is left with.

    Embeddings are computed from the words of the text, with `dimensions` numbers unless the
    request says otherwise. With `check_history` a conversation whose tool results do not pair up
    with its tool calls is refused the way OpenAI refuses it.

    Only those who know its address are answered: there is a random token in the path of it. With
    `port` and `token` the address is known before the server is there.

    Example::

        import os

        from crewai_dbos.testing import ModelServer, text

        with ModelServer([text("Dear customer.")]) as server:
            os.environ.update(server.env)
            assert agent.kickoff("Answer ticket 7.").raw == "Dear customer."
            assert len(server.requests) == 1
    """

    def __init__(
        self,
        script: Script | Iterable[Reply | str],
        *,
        port: int = 0,
        token: str | None = None,
        dimensions: int = 1536,
        check_history: bool = True,
    ) -> None:
        script = script if callable(script) else _in_order(script)
        self._app = App(script, dimensions, check_history)
        self._port = port
        self._token = _access.token(token)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    # Lifecycle

    def start(self) -> ModelServer:
        """Listen, and return once connections are accepted.

        Example::

            from crewai_dbos.testing import ModelServer, text

            server = ModelServer(lambda request: text("Yes.")).start()
            try:
                print(server.base_url)
            finally:
                server.stop()
        """
        if self._thread is not None:
            raise RuntimeError("the model server is already running")
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            _access.BelowToken(self._token, self._app.routed()),
            http=TransportProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            server_header=False,
            date_header=False,
            # Long, so that a client's pooled connection never closes under its next request.
            timeout_keep_alive=600,
        )
        self._server = Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="model-server", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(10):
            raise RuntimeError("the model server did not start within 10 s")
        return self

    def stop(self) -> None:
        """Cut every open connection, held replies included, and stop listening.

        A later `start` listens at the same address and adds to the same requests.

        Example::

            from crewai_dbos.testing import ModelServer, text

            server = ModelServer(lambda request: text("Yes.")).start()
            server.stop()
            server.start()  # the model is back, at the same address
            server.stop()
        """
        if self._server is None or self._thread is None:
            return
        self._server.stop()
        self._thread.join()
        self._server = self._thread = None

    def serve_forever(self) -> None:
        """Serve a program in another terminal until Ctrl-C.

        Prints what to paste there first: an `export` line for each variable of `env`.

        Example::

            from crewai_dbos.testing import ModelServer, text

            if __name__ == "__main__":
                ModelServer(lambda request: text("Yes."), port=8123, token="mine").serve_forever()
        """
        with self, suppress(KeyboardInterrupt):
            print("For another terminal, until Ctrl-C here:", file=sys.stderr, flush=True)
            for name, value in self.env.items():
                print(f"export {name}={value}", flush=True)
            threading.Event().wait()

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, _: object, exception: BaseException | None, *__: object) -> None:
        self.stop()
        if not self._app.faults:
            return
        faults = "; ".join(self._app.faults)
        if exception is None:
            raise ScriptError(faults)
        if hasattr(exception, "add_note"):  # from Python 3.11
            exception.add_note(faults)

    # What a test reads

    @property
    def base_url(self) -> str:
        """The address to give to an OpenAI client, ending in /v1."""
        return f"http://127.0.0.1:{self._port}/{self._token}/v1"

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point the openai SDK and crewAI at this server."""
        return {"OPENAI_BASE_URL": self.base_url, "OPENAI_API_KEY": "test"}

    @property
    def requests(self) -> list[Request]:
        """The chat requests so far, in order of arrival, answered or not."""
        return self.requests_to(CHAT)

    @property
    def embedding_requests(self) -> list[Request]:
        """The embedding requests so far."""
        return self.requests_to(EMBEDDINGS)

    @property
    def all_requests(self) -> list[Request]:
        """Every request so far, to any path."""
        return self._app.requests()

    def requests_to(self, path: str) -> list[Request]:
        """The requests to one path so far.

        Example::

            from crewai_dbos.testing import ModelServer, text

            with ModelServer(lambda request: text("Yes.")) as server:
                assert server.requests_to("/v1/embeddings") == []
        """
        return [request for request in self.all_requests if request.path == path]

    def counts(self) -> Counter[str]:
        """How often each chat request was made, by fingerprint.

        Example::

            import os

            from crewai_dbos.testing import ModelServer, text

            with ModelServer(lambda request: text("Yes.")) as server:
                os.environ.update(server.env)
                agent.kickoff("Answer ticket 7.")
                assert set(server.counts().values()) == {1}, "no request was repeated"
        """
        return Counter(request.fingerprint for request in self.requests)

    def wait_for_requests(self, count: int, timeout: float = 30.0) -> list[Request]:
        """Block until `count` chat requests have arrived and return them.

        Raises TimeoutError when they do not arrive in `timeout` seconds.

        Example::

            import os

            from crewai_dbos.testing import ModelServer, text

            with ModelServer(lambda request: text("Yes.")) as server:
                os.environ.update(server.env)
                run = crew.start({"topic": "otters"})
                (request,) = server.wait_for_requests(1)
                assert "otters" in request.last_user_text
                run.get_result()
        """
        arrived = self._app.wait_for(CHAT, count, timeout)
        if len(arrived) < count:
            raise TimeoutError(f"{len(arrived)} of {count} chat requests arrived in {timeout} s")
        return arrived


def _in_order(replies: Iterable[Reply | str]) -> Script:
    """A script that gives the n-th request the n-th reply."""
    replies = list(replies)

    def script(request: Request) -> Reply | str:
        if request.number > len(replies):
            raise LookupError(f"only {len(replies)} replies were scripted")
        return replies[request.number - 1]

    return script
