"""Questions and answers that the tests of the model server share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from crewai_dbos.testing import ModelServer, ToolCall

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


def client(server: ModelServer, max_retries: int = 0, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=server.base_url, api_key="test", max_retries=max_retries, **options
    )


def ask(server: ModelServer, messages: list[Any] = HELLO, **options: Any) -> Any:
    """One chat completion by the openai SDK, without retries."""
    return client(server).chat.completions.create(model="gpt-4o-mini", messages=messages, **options)


def expect(exception: type[Exception], action: Callable[[], object]) -> None:
    with pytest.raises(exception):
        action()
