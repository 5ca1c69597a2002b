"""What the model says in the crash tests."""

from __future__ import annotations

import re
from collections.abc import Callable

from crewai_dbos.testing import (
    Reply,
    Request,
    ToolCall,
    react_answer,
    react_call,
    text,
    tool_calls,
)

Script = Callable[[Request], Reply]


def letter(to: str) -> ToolCall:
    return ToolCall("send_letter", {"to": to})


def letters(*turns: list[str]) -> Script:
    """Letters to some people in each turn, then all receipts."""

    def script(request: Request) -> Reply:
        if request.assistant_turns < len(turns):
            return tool_calls(*map(letter, turns[request.assistant_turns]))
        # Says which result went with which call, so that results that were swapped are seen.
        return text(" ".join(f"{call}={result}" for call, result in request.tool_results))

    return script


def react(request: Request) -> Reply:
    """Letters to Ann and Bob, in the text form of models without native tool calls."""
    found = re.findall(r"Observation: (receipt for \w+)", str(request.messages))
    if len(found) < 2:
        return react_call("send_letter", {"to": ("Ann", "Bob")[len(found)]})
    return react_answer(", ".join(found))


def as_asked(request: Request) -> Reply:
    """A letter to the person whom the task names, then what was asked and the receipt."""
    asked = re.search(r"Write to (\w+)", str(request.messages))
    assert asked
    if not request.tool_results:
        return tool_calls(letter(asked[1]))
    return text(f"{asked[1]}: {request.tool_results[0][1]}")


ann_and_bob = letters(["Ann"], ["Bob"])
