"""The models that play the examples' agents."""

from __future__ import annotations

import re

from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls

PROMISE = re.compile(r"\b(?:never|always)\b")
COMMAND = re.compile(r"^ *(?:pip|kettle|make) ")


def reviewer(request: Request) -> Reply:
    """Reads what is listed, finds what it can, and forgets the heading at first."""
    if "You are Writer" in request.system_text:
        return _written(request)
    if request.assistant_turns == 0:
        return tool_calls(ToolCall("list_files", {}))
    results = [result for _, result in request.tool_results]
    if request.assistant_turns == 1:
        return tool_calls(*(ToolCall("read_file", {"path": p}) for p in results[0].splitlines()))
    wanted = PROMISE if "You are Promise researcher" in request.system_text else COMMAND
    lines = "\n".join(results[1:]).splitlines()
    found = [f"- {line.strip()}" for line in lines if wanted.search(line)]
    return text("\n".join(found[:8]))  # so that the editor does not find the report too long


def _written(request: Request) -> Reply:
    asked = "\n".join(str(m["content"]) for m in request.messages if m["role"] == "user")
    found = "\n".join(dict.fromkeys(re.findall(r"^- .+$", asked, re.MULTILINE)))
    return text(f"# Review\n\n{found}" if "no heading" in asked else found)


def analyst(request: Request) -> Reply:
    """Looks two things up, then lists what it was told, then makes sections of it."""
    results = [result for _, result in request.tool_results]
    if request.offered_tools and not results:
        words = ("OpenAI", "Protocol")
        return tool_calls(*(ToolCall("search_notes", {"word": word}) for word in words))
    if results:
        return text("\n".join(results))
    asked = "\n".join(str(m["content"]) for m in request.messages if m["role"] == "user")
    notes = re.findall(r"^(\d{4}): (.+)$", asked, re.MULTILINE)
    return text("\n\n".join(f"## {year}\n\n{what}" for year, what in notes))
