"""What a script and a test can read of the requests."""

from __future__ import annotations

import threading
import time
import urllib.request

import openai
import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, ScriptError
from model_server.helpers import ADD, HELLO, Serve, ask, client, expect


class TestRequests:
    def test_what_a_script_can_read(self, serve: Serve) -> None:
        server = serve(lambda request: "done")
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
        ask(
            server,
            [
                {"role": "system", "content": "You are Adder."},
                {"role": "user", "content": [{"type": "text", "text": "add"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "5"},
            ],
            tools=[ADD],
            tool_choice={"type": "function", "function": {"name": "add"}},
        )
        (request,) = server.requests
        assert request.number == 1
        assert request.path == "/v1/chat/completions"
        assert request.model == "gpt-4o-mini"
        assert request.system_text == "You are Adder."
        assert request.last_user_text == "add"
        assert request.assistant_turns == 1
        assert request.tool_results == [("c1", "5")]
        assert request.offered_tools == ["add"]
        assert request.forced_tool == "add"
        assert request.schema_name is None
        assert request.received_at == pytest.approx(time.time(), abs=60)

    def test_no_credentials_are_kept(self, serve: Serve) -> None:
        server = serve(["hi"])
        ask(server)
        (request,) = server.requests
        assert request.has_auth
        assert "authorization" not in request.headers
        assert "test" not in request.headers.values()

    def test_counts_by_fingerprint(self, serve: Serve) -> None:
        server = serve(lambda request: "hi")
        ask(server)
        ask(server, temperature=0.5)
        ask(server, stream=True).close()
        ask(server, tools=[ADD])
        assert sorted(server.counts().values()) == [1, 3]

    def test_waiting_for_requests(self, serve: Serve) -> None:
        server = serve(lambda request: "hi")
        with pytest.raises(TimeoutError, match="0 of 1 chat requests"):
            server.wait_for_requests(1, timeout=0.01)
        timer = threading.Timer(0.05, ask, [server])
        timer.start()
        assert len(server.wait_for_requests(1)) == 1
        timer.join()

    def test_a_used_up_list_is_reported(self) -> None:
        server = ModelServer(["one"])

        def ask_twice() -> None:
            with server:
                ask(server)
                create = client(server, max_retries=2).chat.completions.create
                expect(openai.BadRequestError, lambda: create(model="m", messages=HELLO))

        with pytest.raises(ScriptError, match="only 1 replies were scripted"):
            ask_twice()
        assert len(server.requests) == 2

    def test_a_script_that_raises_is_reported(self) -> None:
        def script(request: Request) -> Reply:
            raise KeyError("lost")

        with pytest.raises(ScriptError, match="lost"), ModelServer(script) as server:
            expect(openai.BadRequestError, lambda: ask(server))

    def test_a_body_that_is_not_json_is_refused(self, serve: Serve) -> None:
        address = f"{serve([]).base_url}/chat/completions"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(address, b"not json")

    def test_models_and_unknown_paths(self, serve: Serve) -> None:
        server = serve([])
        assert "gpt-4o-mini" in [model.id for model in client(server).models.list()]
        assert client(server).models.retrieve("any/model").id == "any/model"
        with pytest.raises(openai.NotFoundError):
            client(server).responses.create(model="gpt-4o", input="hi")
        assert [request.path for request in server.all_requests][-1] == "/v1/responses"
        assert server.requests == []
