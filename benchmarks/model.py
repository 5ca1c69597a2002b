"""A model in a process of its own, which asks for as many tool calls as it is told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Worker, saying, serve
from crewai_dbos.testing import (
    Message,
    ModelServer,
    Reply,
    Request,
    ToolCall,
    delayed,
    react_answer,
    react_call,
    text,
    tool_calls,
)

_ANSWER = "Looked up, and here is what there is to say about it. " * 8


def order(tool_calls: int) -> str:
    """A task's description that makes the model call the tool so many times."""
    return f"Look up {tool_calls} numbers with the tool, then sum up."


def script(request: Request) -> Message:
    """The next turn of a conversation about an `order`."""
    asked = re.search(r"Look up (\d+) numbers", str(request.messages))
    done = request.assistant_turns
    if asked is None or done >= int(asked[1]):
        return text(_ANSWER) if request.offered_tools else react_answer(_ANSWER)
    # crewAI answers a tool call that it has seen from its cache.
    arguments = {"number": request.number}
    if request.offered_tools:
        return tool_calls(ToolCall("look_up", arguments))
    return react_call("look_up", arguments)


@contextmanager
def running(folder: Path, seconds: float = 0.0) -> Iterator[dict[str, str]]:
    """The environment that points crewAI at such a model, which takes so long for an answer."""
    with Worker("benchmarks.model", str(seconds), home=folder) as worker:
        yield worker.read()


if __name__ == "__main__":
    say = saying()
    pause = float(sys.argv[1])

    def answer(request: Request) -> Reply:
        return delayed(pause, script(request)) if pause else script(request)

    with ModelServer(answer) as server:
        say(server.env)
        serve(say, {})
