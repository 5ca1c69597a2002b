"""What the models answer."""

from __future__ import annotations

from crewai_dbos.testing import ToolCall, error, structured, text, tool_calls
from providers.server import Asked, Reply, Script


def one_after_the_other(asked: Asked) -> Reply:
    """Two calls of a tool, then an answer."""
    if asked.turns < 2:
        return tool_calls(ToolCall("search", {"query": ("otters", "badgers")[asked.turns]}))
    return text(f"Answer of {len(asked.results)}.")


def at_once(asked: Asked) -> Reply:
    """Two calls in one reply, then an answer."""
    if asked.turns < 1:
        queries = ({"query": "otters"}, {"query": "badgers"})
        return tool_calls(*(ToolCall("search", query) for query in queries))
    return text(f"Answer of {len(asked.results)}.")


def too_long(asked: Asked) -> Reply:
    """What a tool has found is too much, and has to be summarised."""
    if asked.results:
        return error(400, message="Input is too long: context_length_exceeded.")
    if "summar" in asked.text.lower():
        return text("In short.")
    return tool_calls(ToolCall("search", {"query": "otters"}))


def object_or_text(asked: Asked) -> Reply:
    """An object where one is asked for."""
    return structured({"name": "Ada", "age": 36}) if asked.wants else text("Hello yourself.")


TOOLS: dict[str, Script] = {"sequential": one_after_the_other, "parallel": at_once}
