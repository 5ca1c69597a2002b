"""A real endpoint's replies, recorded and given again. The endpoint is a scripted server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from crewai_dbos.testing import (
    ModelServer,
    RecordingError,
    Reply,
    Request,
    Script,
    ScriptError,
    ToolCall,
    error,
    record,
    recorded,
    text,
    tool_calls,
)
from model_server import adder
from model_server.helpers import ADD, HELLO, TWO_CALLS, Serve, ask, client, expect
from support.python import python

KEY = "sk-not-to-be-found-anywhere"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.json"


def make(path: Path, upstream: ModelServer, *questions: str, **options: Any) -> list[str]:
    """Record one request for each question; the answers."""
    with ModelServer(record(path, base_url=upstream.base_url, api_key=KEY)) as server:
        return [said(server, question, **options) for question in questions]


def said(server: ModelServer, question: str, **options: Any) -> str:
    messages = [{"role": "user", "content": question}]
    return str(ask(server, messages, **options).choices[0].message.content)


def refused(script: Script, action: Callable[[ModelServer], object]) -> str:
    """What leaving the server says after a request that had no reply."""

    def run() -> None:
        with ModelServer(script) as server:
            expect(openai.BadRequestError, lambda: action(server))

    with pytest.raises(ScriptError) as left:
        run()
    return str(left.value)


def adding(request: Request) -> Reply:
    if not request.tool_results:
        return tool_calls(*TWO_CALLS, content="I add.")
    return text(" and ".join(result for _, result in request.tool_results))


@pytest.mark.crash
def test_an_agent_gets_the_same_answer_in_another_process(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in adder.QUIET.items():
        monkeypatch.setenv(name, value)
    with (
        ModelServer(adding) as upstream,
        ModelServer(record(path, base_url=upstream.base_url, api_key=KEY)) as server,
    ):
        assert adder.answer(server.base_url) == "5 and 9"
    assert len(upstream.requests) == 2
    assert KEY not in path.read_text()
    assert "authorization" not in path.read_text().lower()

    # Another day, and streamed: neither changes what is asked.
    with ModelServer(recorded(path)) as server:
        command = (adder.__file__, server.base_url, path.with_name("answer"))
        done = python(*command, folder=path.parent, env={**os.environ, "HOME": str(path.parent)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.with_name("answer").read_text() == "5 and 9"
    assert len(server.requests) == 2
    assert all(request.stream for request in server.requests)


def test_equal_requests_get_their_replies_in_order_and_then_the_last(
    path: Path, serve: Serve
) -> None:
    upstream = serve(["one", "other", "two"])
    assert make(path, upstream, "next", "else", "next") == ["one", "other", "two"]
    script = recorded(path)
    for _ in range(2):  # a server of its own begins anew
        with ModelServer(script) as server:
            given = [said(server, each) for each in ("next", "next", "else", "next", "else")]
        assert given == ["one", "two", "other", "two", "other"]


def test_errors_are_replayed(path: Path, serve: Serve) -> None:
    upstream = serve([error(429, retry_after=7, message=f"Slow down, {KEY}."), "ok", error(500)])
    with ModelServer(record(path, base_url=upstream.base_url, api_key=KEY)) as server:
        for kind in (openai.RateLimitError, None, openai.InternalServerError):
            if kind is None:
                ask(server)
            else:
                with pytest.raises(kind):
                    ask(server)
    assert KEY not in path.read_text()
    with ModelServer(recorded(path)) as server:
        with pytest.raises(openai.RateLimitError) as limited:
            ask(server)
        assert limited.value.response.headers["retry-after"] == "7"
        assert limited.value.body["message"] == "Slow down, ***."  # type: ignore[index]
        assert limited.value.code == "rate_limit_exceeded"
        assert ask(server).choices[0].message.content == "ok"
        with pytest.raises(openai.InternalServerError):
            ask(server)


def test_what_no_two_runs_have_in_common_is_not_compared(path: Path, serve: Serve) -> None:
    def conversation(call_id: str, said: str) -> list[Any]:
        call = {"id": call_id, "type": "function", "function": {"name": "add", "arguments": "{}"}}
        return [
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": said},
        ]

    first = "ticket 1 at 0x7f3a5c001d90, 2026-01-02T03:04:05"
    second = "ticket 2 at 0x7f9900aa1234, 2027-06-05 04:03:02.5"
    with ModelServer(record(path, base_url=serve(["done"]).base_url, api_key=KEY)) as server:
        ask(server, conversation("call_1", first))
    with ModelServer(recorded(path, ignore=[r"ticket \d"])) as server:
        reply = ask(server, conversation("call_2", second))
    assert reply.choices[0].message.content == "done"
    other = conversation("call_2", second)
    assert "ticket 2" in refused(recorded(path), lambda server: ask(server, other))


class TestUnknownRequests:
    @pytest.fixture(autouse=True)
    def _recording(self, path: Path, serve: Serve) -> None:
        make(path, serve(["a", "b"]), "What is the capital of Norway?", "Add up.", tools=[ADD])

    def refusal(self, path: Path, question: str, **options: Any) -> str:
        return refused(recorded(path), lambda server: said(server, question, **options))

    def test_another_text(self, path: Path) -> None:
        assert self.refusal(path, "What is the capital of Sweden?", tools=[ADD]) == (
            "the script failed at request 1: RecordingError: "
            f"this request is not in {path}. It differs from number 1 of 2 there, "
            "the nearest (- recorded, + asked):\n"
            "Message 1 (user):\n"
            "  - role: user\\ncontent: What is the capital of Norway?\n"
            "  + role: user\\ncontent: What is the capital of Sweden?\n"
            f"To record anew, run once with ModelServer(record('{path}'))."
        )

    def test_other_tools(self, path: Path) -> None:
        multiply = json.loads(json.dumps(ADD).replace('"add"', '"multiply"'))
        told = self.refusal(path, "Add up.", tools=[ADD, multiply])
        assert "number 2 of 2" in told
        assert "The tools: add are recorded, add, multiply were offered." in told
        changed = json.loads(json.dumps(ADD).replace("two numbers", "three numbers"))
        told = self.refusal(path, "Add up.", tools=[changed])
        assert "The tool add:" in told
        assert "three numbers" in told

    def test_another_model(self, path: Path) -> None:
        def action(server: ModelServer) -> object:
            create = client(server).chat.completions.create
            return create(model="gpt-5", messages=HELLO, tools=[ADD])

        told = refused(recorded(path), action)
        assert "The model: gpt-4o-mini is recorded, gpt-5 was asked." in told

    def test_a_conversation_that_goes_on(self, path: Path) -> None:
        messages = [{"role": "user", "content": "Add up."}, *HELLO]
        told = refused(recorded(path), lambda server: ask(server, messages, tools=[ADD]))
        assert "Message 2 (user):\n  - nothing\n  + role: user\\ncontent: hello\n" in told

    def test_a_long_prompt(self, path: Path, serve: Serve) -> None:
        words = [f"word{number}" for number in range(1000)]
        make(path, serve(["a"]), " ".join(words))
        words[500] = "elsewhere"
        told = self.refusal(path, " ".join(words))
        assert "word499 word500 word501" in told
        assert "word499 elsewhere word501" in told
        assert "word600" not in told

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
    def test_it_is_told_where_the_client_failed(self, path: Path) -> None:
        with pytest.raises(openai.BadRequestError) as failed, ModelServer(recorded(path)) as server:
            said(server, "Who?")
        assert "content: Who?" in failed.value.__notes__[0]


def test_an_endpoint_that_does_not_answer_is_not_recorded(path: Path) -> None:
    with ModelServer(["never"]) as gone:
        address = gone.base_url
    script = record(path, base_url=address, api_key=KEY)
    assert f"{address} did not answer" in refused(script, ask)
    assert not path.exists()


def test_recording_without_a_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="set OPENAI_API_KEY, or pass api_key="):
        record(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no "),
        ("{", "is not JSON"),
        ("[]", "is not a recording of version 1"),
        ('{"version": 2}', "of version 1, but of 2"),
        ('{"version": 1, "exchanges": [{"request": {}}]}', "can't be read: KeyError: 'reply'"),
    ],
)
def test_a_file_that_is_no_recording(path: Path, content: str | None, says: str) -> None:
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecordingError, match="To record anew") as refused:
        recorded(path)
    assert says in str(refused.value)


def test_the_file_can_be_read_and_changed_by_hand(path: Path, serve: Serve) -> None:
    calls = tool_calls(ToolCall("add", {"a": 2}, id="c1"))
    make(path, serve([calls]), "Zwei plus drei, Grüße", temperature=0.5)
    content = json.loads(path.read_text())
    assert content == {
        "version": 1,
        "exchanges": [
            {
                "request": {
                    "model": "gpt-4o-mini",
                    "messages": [{"role": "user", "content": "Zwei plus drei, Grüße"}],
                },
                "reply": {
                    "content": None,
                    "calls": [{"name": "add", "arguments": '{"a": 2}', "id": "c1"}],
                    "finish_reason": "tool_calls",
                },
            }
        ],
    }
    assert "Grüße" in path.read_text()
    content["exchanges"][0]["reply"] = {"content": "five", "finish_reason": "stop"}
    path.write_text(json.dumps(content))
    with ModelServer(recorded(path)) as server:
        assert said(server, "Zwei plus drei, Grüße") == "five"
