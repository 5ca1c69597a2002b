"""Chat completions and embeddings, as the openai SDK reads them."""

from __future__ import annotations

import json

import openai
import pytest

from crewai_dbos.testing import structured, tool_calls
from model_server.helpers import HELLO, OSLO, TWO_CALLS, City, Serve, ask, client


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
