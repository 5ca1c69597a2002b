"""What the page of a run shows, with one of its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from crewai_dbos._control.edits import EDITABLE
from crewai_dbos._http import trees
from crewai_dbos._http.auth import Caller
from crewai_dbos._http.problems import Problem, problem_of
from crewai_dbos._http.rendering import shown
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos._http.texts import plain_json
from crewai_dbos._http.timeline import timeline
from crewai_dbos.control import MadeAgain, Node, Run, State
from crewai_dbos.errors import ForkError, RunNotFoundError, SealedError

ALIVE: tuple[State, ...] = (
    "queued",
    "running",
    "interrupted",
    "waiting",
    "waking",
    "stranded",
)
"""The states of a run that has not ended."""

_LONGEST = 20_000
"""Characters of a result that are shown."""

_EDITABLE = (*EDITABLE, "task")


def seen(
    scoped: ScopedControl,
    caller: Caller,
    run: Run,
    at: str | None,
    inside: str | None = None,
    last_event: int = 0,
) -> dict[str, Any]:
    """What the page of a run shows.

    Args:
        scoped: Where the run is.
        caller: Who looks.
        run: The run, with its tree.
        at: The path of what is looked at in it.
        inside: The path of what alone is shown of it, with what is inside.
        last_event: The number of the last event before `run` was read.
    """
    control = scoped.control
    node = trees.find(run, at) if at else None
    place = trees.found(run, inside) if inside else None
    seen = timeline(run, control.costs_of(run.run_id), place)
    edits = node is not None and node.kind in _EDITABLE
    return {
        "run": run,
        "rows": seen.rows,
        "ticks": seen.ticks,
        "left_out": seen.count - len(seen.rows),
        "once": str(uuid4()),
        "last_event": last_event,
        "inputs": inputs(scoped, run.run_id),
        "result": _result(lambda: control.result_of(run.run_id)),
        "requests": scoped.requests_of(caller, run.run_id),
        "node": node,
        "inside": place,
        "call": None if node is None else _call_for(scoped, caller, run, node),
        "before": _before(scoped, caller, run, node) if node is not None else None,
        "is_alive": run.state in ALIVE,
        "edits": edits,
        "again": _made_again(scoped, run, node) if edits and node is not None else {},
    }


def _before(scoped: ScopedControl, caller: Caller, run: Run, node: Node) -> dict[str, str] | None:
    """What stood in place of a result that was edited, and in which run; None if nobody knows."""
    if node.edited_by is None:
        return None
    origin = run
    while origin.forked_from is not None:
        try:
            origin = scoped.run(caller, origin.forked_from)
        except RunNotFoundError:
            return None
        there = trees.find(origin, node.path)
        if there is None:
            return None
        if (there.edited_by, there.edited) != (node.edited_by, node.edited):
            text = _call_for(scoped, caller, origin, there)["text"]
            return {"text": text, "run_id": origin.run_id}
    return None


def _made_again(scoped: ScopedControl, run: Run, node: Node) -> dict[str, str]:
    """What each of the two forks of a call makes again; or why that can't be said."""
    control, run_id = scoped.control, run.run_id
    return {
        "fork": _told(lambda: control.made_again(run_id, node.path)),
        "edit": _told(lambda: control.made_again(run_id, edit=[node.path])),
    }


def _told(find: Callable[[], MadeAgain]) -> str:
    try:
        again = find()
    except (ForkError, SealedError) as error:
        return problem_of(error).detail
    if not again:
        return "Nothing that is recorded is made again."
    return f"Made again: {again}. Their effects happen again."


def inputs(scoped: ScopedControl, run_id: str) -> dict[str, Any]:
    """The inputs of a run as a text, or why they can't be shown."""
    return _content(lambda: scoped.control.inputs_of(run_id))


def _content(read: Callable[[], Any]) -> dict[str, Any]:
    """A text to show; or why there is none."""
    try:
        text = shown(read())
    except SealedError as error:
        return {"text": "", "why": problem_of(error).detail, "is_whole": False}
    return {"text": text[:_LONGEST], "why": "", "is_whole": len(text) <= _LONGEST}


def _result(read: Callable[[], Any]) -> dict[str, Any]:
    """What a run has returned; of a crew the text of it, and all of it as ``whole``."""
    found: dict[str, Any] = {"whole": ""}

    def text() -> Any:
        result = read()
        if isinstance(result, Mapping) and isinstance(result.get("raw"), str):
            found["whole"] = shown(result)[:_LONGEST]
            return result["raw"]
        return result

    return {**_content(text), **found}


def _call_for(scoped: ScopedControl, caller: Caller, run: Run, node: Node) -> dict[str, Any]:
    if scoped.may_read(caller, run, node):
        return _call(scoped, run, node)
    why = "What a person has said here is for others."
    return {"text": "", "why": why, "is_whole": False, "content": None, "asks_for_tools": False}


def _call(scoped: ScopedControl, run: Run, node: Node) -> dict[str, Any]:
    """What is known of a call in a run; of a task its last answer."""
    path: str | None = node.path
    if node.kind == "task":
        path = _last_answer(node) if node.edited_by is None else f"{node.path}/edited#1"
    if node.kind == "method":
        path = f"{node.path}/outcome#1"
    found: dict[str, Any] = {"content": None, "asks_for_tools": False}

    def read() -> Any:
        content = scoped.control.content_of(run.run_id, path) if path else None
        found["content"] = content
        if content is None:
            return None
        if node.kind == "method" and isinstance(content.result, Mapping):
            return content.result.get("returned")
        if node.kind == "llm" and (calls := _tool_calls(content.result)) is not None:
            found["asks_for_tools"] = True
            return calls
        return content.result

    return {**_content(read), **found}


def _tool_calls(answer: Any) -> list[dict[str, Any]] | None:
    """The tool calls that an LLM asked for, with their arguments as data; None of other answers."""
    calls = answer if isinstance(answer, list) else []
    found = [each.get("function") for each in calls if isinstance(each, Mapping)]
    functions = [each for each in found if isinstance(each, Mapping)]
    if not calls or len(functions) < len(calls):
        return None
    return [
        {"tool": each.get("name"), "arguments": _data(each.get("arguments"))} for each in functions
    ]


def _data(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return text


def _last_answer(node: Node) -> str | None:
    """The path of the last answer of an LLM inside."""
    for child in reversed(node.children):
        if child.kind == "llm":
            return child.path
        if (path := _last_answer(child)) is not None:
            return path
    return None


def edited(scoped: ScopedControl, run: Run, at: str, form: Mapping[str, str]) -> Any:
    """What somebody has put in place of a result: a text, or JSON where that was none."""
    text = form.get("result", "")
    node = trees.found(run, at)
    content = _call(scoped, run, node)["content"]
    result = None if content is None else content.result
    if node.kind == "method" and isinstance(result, Mapping):
        result = result.get("returned")
    is_object = isinstance(result, Mapping)  # of an LLM the fields of its response model
    if isinstance(result, str) or node.kind == "task" or (node.kind == "llm" and not is_object):
        return text
    try:
        return plain_json(json.loads(text))
    except (ValueError, RecursionError):
        raise Problem(422, "The result has to be JSON, as it was before.", "invalid") from None
