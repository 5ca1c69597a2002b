"""The scripted model server, in front of the openai SDK and of crewAI itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from crewai_dbos.testing import (
    EffectLog,
    Hang,
    ModelServer,
    Reply,
    Request,
    ScriptError,
    ToolCall,
    context_length_exceeded,
    delayed,
    drop,
    error,
    hang,
    react_answer,
    react_call,
    structured,
    text,
    tool_calls,
)

Serve = Callable[..., ModelServer]

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
TWO_CALLS = (ToolCall("add", {"a": 2, "b": 3}), ToolCall("add", {"a": 4, "b": 5}))


class City(BaseModel):
    name: str
    people: int


OSLO = City(name="Oslo", people=700_000)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that stop with the test."""
    servers: list[ModelServer] = []

    def start(script: Any, **options: Any) -> ModelServer:
        servers.append(ModelServer(script, **options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def client(server: ModelServer, max_retries: int = 0, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.base_url, api_key="test", max_retries=max_retries, **options
    )


def ask(server: ModelServer, messages: list[Any] = HELLO, **options: Any) -> Any:
    """One chat completion by the openai SDK, without retries."""
    return client(server).chat.completions.create(model="gpt-4o-mini", messages=messages, **options)


class TestCompletions:
    def test_text_and_usage(self, serve: Serve) -> None:
        server = serve(["good day to you"])
        answer = ask(server)
        assert answer.choices[0].message.content == "good day to you"
        assert answer.choices[0].finish_reason == "stop"
        usage = answer.usage
        assert usage.completion_tokens == 4
        assert usage.total_tokens == usage.prompt_tokens + 4

    def test_equal_requests_get_equal_bytes(self, serve: Serve) -> None:
        server = serve(lambda request: tool_calls(*TWO_CALLS))
        assert ask(server) == ask(server)

    def test_several_tool_calls_have_their_own_ids(self, serve: Serve) -> None:
        first, second = ask(serve([tool_calls(*TWO_CALLS)])).choices[0].message.tool_calls
        assert json.loads(second.function.arguments) == {"a": 4, "b": 5}
        assert first.id != second.id

    def test_stream_carries_the_same_reply(self, serve: Serve) -> None:
        server = serve(lambda request: tool_calls(*TWO_CALLS, content="I add them up."))
        whole = ask(server)
        with client(server).chat.completions.stream(
            model="gpt-4o-mini", messages=HELLO, stream_options={"include_usage": True}
        ) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            streamed = stream.get_final_completion()
        assert len(pieces) > 1
        message = streamed.choices[0].message.model_dump(exclude={"parsed"})
        for call in message["tool_calls"]:
            del call["index"], call["function"]["parsed_arguments"]
        assert message == whole.choices[0].message.model_dump()
        assert streamed.usage == whole.usage

    def test_stream_without_usage(self, serve: Serve) -> None:
        chunks = list(ask(serve(["a b c"]), stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b c"
        assert not any(chunk.usage for chunk in chunks)

    def test_structured_output(self, serve: Serve) -> None:
        server = serve([structured(OSLO)])
        answer = client(server).beta.chat.completions.parse(
            model="gpt-4o-mini", messages=HELLO, response_format=City
        )
        assert answer.choices[0].message.parsed == OSLO
        assert server.requests[0].schema_name == "City"

    def test_a_conversation_with_unpaired_tool_results_is_refused(self, serve: Serve) -> None:
        server = serve(lambda request: "fine")
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
        asked = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
        result = {"role": "tool", "tool_call_id": "c1", "content": "5"}
        assert ask(server, [*asked, result]).choices[0].message.content == "fine"
        for broken in (asked, [*HELLO, result], [*asked, {**result, "tool_call_id": "c2"}]):
            with pytest.raises(openai.BadRequestError, match="tool_call"):
                ask(server, broken)


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
                _expect(openai.BadRequestError, lambda: create(model="m", messages=HELLO))

        with pytest.raises(ScriptError, match="only 1 replies were scripted"):
            ask_twice()
        assert len(server.requests) == 2

    def test_a_script_that_raises_is_reported(self) -> None:
        def script(request: Request) -> Reply:
            raise KeyError("lost")

        with pytest.raises(ScriptError, match="lost"), ModelServer(script) as server:
            _expect(openai.BadRequestError, lambda: ask(server))

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


class TestEmbeddings:
    def test_vectors_follow_the_words(self, serve: Serve) -> None:
        server = serve([], dimensions=256)
        texts = ["the cat sat", "the cat slept", "quarterly tax report", "the cat sat"]
        create = client(server).embeddings.create

        def dot(one: list[float], other: list[float]) -> float:
            return sum(x * y for x, y in zip(one, other, strict=True))

        base64 = create(model="e", input=texts).data
        floats = create(model="e", input=texts, encoding_format="float").data
        a, b, c, again = (entry.embedding for entry in floats)
        assert len(a) == 256
        assert a == again
        assert dot(a, b) > 0.3 > dot(a, c)
        assert base64[1].embedding == pytest.approx(b, abs=1e-6)
        assert len(server.embedding_requests) == 2

    def test_dimensions_asked_for(self, serve: Serve) -> None:
        create = client(serve([])).embeddings.create
        assert len(create(model="e", input="hi").data[0].embedding) == 1536
        assert len(create(model="e", input="hi", dimensions=8).data[0].embedding) == 8
        assert len(create(model="e", input=[1, 2, 3]).data) == 1


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


class TestLifecycle:
    def test_starts_and_stops_fast(self) -> None:
        def seconds() -> float:
            started = time.monotonic()
            with ModelServer([]) as server:
                urllib.request.urlopen(f"{server.base_url}/models").close()
            return time.monotonic() - started

        assert min(seconds() for _ in range(3)) < 0.3

    def test_comes_back_at_the_same_address(self) -> None:
        server = ModelServer(lambda request: "hi")
        with server:
            address = server.base_url
            ask(server)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{address}/models")
        with server:
            assert server.base_url == address
            ask(server)
        assert len(server.requests) == 2

    def test_stopping_frees_held_clients(self) -> None:
        held: Hang = hang()
        server = ModelServer([held]).start()
        thread = threading.Thread(
            target=_expect, args=[openai.APIConnectionError, lambda: ask(server)]
        )
        thread.start()
        held.wait_until_held()
        server.stop()
        thread.join(5)
        assert not thread.is_alive()
        held.release()

    def test_does_not_import_crewai_or_dbos(self) -> None:
        # A stand-in for the parent package: what that imports is not this package's affair.
        package = Path(__file__).parents[1] / "src" / "crewai_dbos"
        program = (
            "import sys, types; parent = types.ModuleType('crewai_dbos');"
            f"parent.__path__ = [{str(package)!r}]; sys.modules['crewai_dbos'] = parent;"
            "import crewai_dbos.testing;"
            "sys.exit(bool({'crewai', 'dbos', 'openai'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def _expect(exception: type[Exception], action: Callable[[], object]) -> None:
    with pytest.raises(exception):
        action()


# crewAI in front of the server


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


# The effect log


class TestEffectLog:
    def test_reads_and_counts(self, tmp_path: Path) -> None:
        log = EffectLog(tmp_path / "log")
        assert log.read() == []
        log.report("email", to="a@x", kind="html")
        log.report("email", to="b@x")
        assert log.count("email") == 2
        assert log.count("email", to="a@x", kind="html") == 1
        assert log.count("email", to="c@x") == 0
        assert log.count("sms") == 0
        assert log.read()[0].pid == os.getpid()

    def test_several_processes_killed_while_reporting(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        package = str(Path(__file__).parents[1] / "src" / "crewai_dbos" / "testing" / "effects.py")
        program = (
            "import importlib.util as u, sys;"
            "s = u.spec_from_file_location('effects', sys.argv[1]); m = u.module_from_spec(s);"
            " sys.modules['effects'] = m; s.loader.exec_module(m);"
            "log = m.EffectLog(sys.argv[2]); n = 0\n"
            "while True: log.report('tick', n=n, pad='x' * 500); n += 1"
        )
        children = [
            subprocess.Popen([sys.executable, "-c", program, package, str(path)]) for _ in range(3)
        ]
        log = EffectLog(path)
        deadline = time.monotonic() + 20
        while len({effect.pid for effect in log.read()}) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        for child in children:
            child.kill()
            child.wait()
        effects = log.read()
        for child in children:
            ticks = [effect.fields["n"] for effect in effects if effect.pid == child.pid]
            assert ticks == list(range(len(ticks)))
            assert ticks
        assert log.count("tick") == len(effects)
