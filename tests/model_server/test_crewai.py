"""crewAI in front of the server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from crewai_dbos.testing import (
    EffectLog,
    ModelServer,
    Reply,
    Request,
    ToolCall,
    context_length_exceeded,
    drop,
    error,
    hang,
    react_answer,
    react_call,
    structured,
    text,
    tool_calls,
)
from model_server.helpers import ADD, OSLO, TWO_CALLS, City, Serve


@pytest.fixture(scope="module")
def crewai() -> ModuleType:
    for name in ("CREWAI_DISABLE_TELEMETRY", "OTEL_SDK_DISABLED", "CREWAI_TESTING"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")
    import crewai

    return crewai


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """crewAI writes task outputs below the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def model(
    crewai: ModuleType, server: ModelServer, name: str = "gpt-4o-mini", **options: Any
) -> Any:
    return crewai.LLM(model=f"openai/{name}", base_url=server.base_url, api_key="test", **options)


class TestCrewAiLlm:
    @pytest.mark.parametrize("stream", [False, True])
    def test_text_and_token_usage(self, crewai: ModuleType, serve: Serve, stream: bool) -> None:
        llm = model(crewai, serve(["good day to you"]), stream=stream)
        assert type(llm).__name__ == "OpenAICompletion"
        assert llm.call("hello") == "good day to you"
        usage = llm.get_token_usage_summary()
        assert usage.completion_tokens == 4
        assert usage.successful_requests == 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_tool_calls(self, crewai: ModuleType, serve: Serve, stream: bool) -> None:
        llm = model(crewai, serve([tool_calls(*TWO_CALLS)]), stream=stream)
        assert len(llm.call("hello", tools=[ADD])) == 2

    @pytest.mark.parametrize("stream", [False, True])
    def test_structured_output(self, crewai: ModuleType, serve: Serve, stream: bool) -> None:
        llm = model(crewai, serve([structured(OSLO)]), stream=stream)
        assert llm.call("hello", response_model=City) == OSLO

    def test_rate_limit_is_retried_inside_one_call(self, crewai: ModuleType, serve: Serve) -> None:
        server = serve([error(429, retry_after=0.05), "ok"])
        assert model(crewai, server).call("hello") == "ok"
        assert len(server.requests) == 2

    def test_server_error(self, crewai: ModuleType, serve: Serve) -> None:
        server = serve([error(500)])
        with pytest.raises(openai.InternalServerError):
            model(crewai, server, max_retries=0).call("hello")

    def test_context_length(self, crewai: ModuleType, serve: Serve) -> None:
        from crewai.utilities.exceptions.context_window_exceeding_exception import (
            LLMContextLengthExceededError,
        )

        server = serve([context_length_exceeded()])
        with pytest.raises(LLMContextLengthExceededError):
            model(crewai, server).call("hello")
        assert len(server.requests) == 1

    def test_dropped_connection(self, crewai: ModuleType, serve: Serve) -> None:
        server = serve([drop(), "ok", drop()])
        assert model(crewai, server).call("hello") == "ok"
        with pytest.raises(ConnectionError):
            model(crewai, server, max_retries=0).call("hello")

    def test_hang_and_release(self, crewai: ModuleType, serve: Serve) -> None:
        held = hang(text("at last"))
        answers: list[str] = []
        llm = model(crewai, serve([held]))
        thread = threading.Thread(target=lambda: answers.append(llm.call("hello")))
        thread.start()
        held.wait_until_held()
        assert answers == []
        held.release()
        thread.join(5)
        assert answers == ["at last"]


def crew(crewai: ModuleType, llm: Any, effects: EffectLog, **task: Any) -> Any:
    """A crew of one agent whose only tool reports each call to `effects`."""
    from crewai.tools import tool

    def add(a: int, b: int) -> str:
        """Add two numbers."""
        effects.report("add", a=a, b=b)
        return str(a + b)

    agent = crewai.Agent(
        role="Adder", goal="add", backstory="patient", llm=llm, tools=[tool("add")(add)]
    )
    job = crewai.Task(description="Add up.", expected_output="a sum", agent=agent, **task)
    return crewai.Crew(agents=[agent], tasks=[job])


@pytest.mark.usefixtures("home")
class TestCrewAiAgent:
    @pytest.fixture
    def effects(self, tmp_path: Path) -> EffectLog:
        return EffectLog(tmp_path / "effects.jsonl")

    @pytest.mark.parametrize("stream", [False, True])
    def test_native_tool_calls(
        self, crewai: ModuleType, serve: Serve, effects: EffectLog, stream: bool
    ) -> None:
        def script(request: Request) -> Reply:
            if not request.tool_results:
                return tool_calls(*TWO_CALLS)
            return text(" and ".join(result for _, result in request.tool_results))

        server = serve(script)
        result = crew(crewai, model(crewai, server, stream=stream), effects).kickoff()
        assert result.raw == "5 and 9"
        assert result.token_usage.successful_requests == 2
        assert effects.count("add") == 2
        assert effects.count("add", a=4, b=5) == 1
        first, second = server.requests
        assert first.offered_tools == ["add"]
        assert "You are Adder" in first.system_text
        assert second.assistant_turns == 1

    def test_react_text(self, crewai: ModuleType, serve: Serve, effects: EffectLog) -> None:
        def script(request: Request) -> Reply:
            if request.assistant_turns == 0:
                return react_call("add", {"a": 2, "b": 3})
            assert "Observation: 5" in request.messages[-2]["content"]
            return react_answer("five")

        # crewAI falls back to text for models it knows to lack function calling: the o1 family.
        with ModelServer(script) as server:
            result = crew(crewai, model(crewai, server, "o1-mini"), effects).kickoff()
        assert result.raw == "five"
        assert effects.count("add") == 1
        assert [request.offered_tools for request in server.requests] == [[], []]

    def test_converted_output(self, crewai: ModuleType, serve: Serve, effects: EffectLog) -> None:
        def script(request: Request) -> Reply:
            if request.forced_tool == "City":
                return tool_calls(ToolCall("City", OSLO.model_dump()))
            return text("Oslo has many people")

        server = serve(script)
        result = crew(crewai, model(crewai, server), effects, output_json=City).kickoff()
        assert result.json_dict == OSLO.model_dump()
        assert len(server.requests) == 2
