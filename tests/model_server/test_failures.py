"""Errors, dropped connections, delays and held replies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import openai
import pytest

from crewai_dbos.testing import context_length_exceeded, delayed, drop, error, hang, text
from model_server.helpers import HELLO, Serve, ask, client


class TestFailures:
    @pytest.mark.parametrize(
        ("status", "exception"),
        [
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (404, openai.NotFoundError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ],
    )
    def test_status(
        self, serve: Serve, status: int, exception: type[openai.APIStatusError]
    ) -> None:
        with pytest.raises(exception) as caught:
            ask(serve([error(status, message="no")]))
        assert caught.value.status_code == status
        assert "no" in str(caught.value)

    def test_retry_after_is_obeyed_by_the_sdk(self, serve: Serve) -> None:
        # Longer than the SDK's own first pause, which is 0.5 s at most.
        server = serve([error(429, retry_after=0.7), "ok"])
        client(server, max_retries=1).chat.completions.create(model="m", messages=HELLO)
        first, second = server.requests
        assert second.received_at - first.received_at >= 0.69
        assert second.headers["x-stainless-retry-count"] == "1"

    def test_context_length_body(self, serve: Serve) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(serve([context_length_exceeded(100, 120)]))
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
        assert "maximum context length is 100 tokens" in caught.value.message

    def test_drop_before_a_reply(self, serve: Serve) -> None:
        server = serve([drop(), "ok"])
        with pytest.raises(openai.APIConnectionError):
            ask(server)
        assert ask(server).choices[0].message.content == "ok"

    def test_drop_halfway(self, serve: Serve) -> None:
        server = serve(lambda request: drop(partway=text("one two three four")))
        with pytest.raises(openai.APIConnectionError):
            ask(server)
        got: list[str] = []
        stream = ask(server, stream=True)
        with pytest.raises(Exception, match="peer closed connection"):
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        assert "".join(got)
        assert "one two three four".startswith("".join(got))

    def test_delay(self, serve: Serve) -> None:
        server = serve([delayed(0.2, text("late")), delayed(60, text("too late"))])
        started = time.monotonic()
        assert ask(server).choices[0].message.content == "late"
        assert time.monotonic() - started >= 0.2
        with pytest.raises(openai.APITimeoutError):
            ask(server, timeout=0.1)

    @pytest.mark.parametrize("partway", [False, True])
    @pytest.mark.parametrize("stream", [False, True])
    def test_hang_until_released(self, serve: Serve, partway: bool, stream: bool) -> None:
        held = hang(text("released at last"), partway=partway)
        server = serve(lambda request: held)
        answers: list[Any] = []

        def call() -> None:
            answer = ask(server, stream=stream)
            answers.append(list(answer) if stream else answer)

        thread = threading.Thread(target=call)
        thread.start()
        held.wait_until_held()
        thread.join(0.05)
        assert thread.is_alive()
        held.release()
        thread.join(5)
        assert len(answers) == 1
        ask(server)  # once released, it holds nobody

    @pytest.mark.crash
    def test_killing_a_client_in_flight(self, serve: Serve) -> None:
        held = hang()
        server = serve(lambda request: held if request.number == 1 else "second try")
        body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO})
        program = (
            "import sys, urllib.request as u;"
            "u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode()))"
        )
        address = f"{server.base_url}/chat/completions"
        child = subprocess.Popen([sys.executable, "-c", program, address, body])
        held.wait_until_held()
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert ask(server).choices[0].message.content == "second try"
        assert list(server.counts().values()) == [2]
