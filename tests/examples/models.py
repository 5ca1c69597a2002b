"""The models that play the examples' agents."""

from __future__ import annotations

import re

from crewai_dbos.testing import Reply, Request, ToolCall, structured, text, tool_calls

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


def support(request: Request) -> Reply:
    """Sorts, looks up, writes and edits. The second ticket takes two drafts, the third too many."""
    if request.schema_name == "Classification":
        shows_code = "E7" in request.last_user_text
        return structured({"category": "technical" if shows_code else "billing"})
    if request.schema_name == "Review":
        return _reviewed(request)
    asked = "\n".join(str(m["content"]) for m in request.messages if m["role"] == "user")
    if "You are Writer" in request.system_text:
        facts = " ".join(re.findall(r"^Fact: (.+)$", asked, re.MULTILINE))
        remark = re.findall(r"Remark of the editor: (.+)\.", asked)[0]
        return text(f"Dear customer, {facts} ({remark})")
    results = [result for _, result in request.tool_results]
    if results:
        return text("\n".join(f"Fact: {result}" for result in results))
    if "You are Engineer" in request.system_text:
        return tool_calls(ToolCall("find_in_manual", {"code": re.findall(r"E\d", asked)[0]}))
    numbers = re.findall(r"[Ii]nvoice (\d+)", asked)
    return tool_calls(*(ToolCall("find_invoice", {"number": number}) for number in numbers))


def _reviewed(request: Request) -> Reply:
    """What the editor says."""
    asked = request.last_user_text
    if "charged twice" in asked or "(Say sorry)" in asked:
        return structured({"accepted": True, "remark": ""})
    remark = "Say sorry" if "E7" in asked else "Say when"
    return structured({"accepted": False, "remark": remark})
