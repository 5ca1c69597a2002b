"""Approval by a person before a tool is called."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from crewai.tools.base_tool import BaseTool
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._leases import RunVar
from crewai_dbos._people import policy
from crewai_dbos._people.asking import Asking, Said, aask, ask
from crewai_dbos._people.policy import ToolRequest
from crewai_dbos._people.shown import shown
from crewai_dbos._requests.request import Question
from crewai_dbos._setting import setting
from crewai_dbos._stored import names


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool, as it is made.

    Attributes:
        scope: The place that it is recorded in.
        what: The name that it is recorded under.
        args: Its arguments.
        kwargs: Those that have names.
        remark: What the model is told beside the result; as a refusal, in its place.
        refused: Whether it is not made.
    """

    scope: Scope
    what: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    remark: str = ""
    refused: bool = False

    def result_with_remark(self, result: Any) -> Any:
        """What the model is given that `result` came of."""
        return f"{self.remark} {result}" if self.remark else result


_task: RunVar[str | None] = RunVar("crewai_dbos_task_description", default=None)


def in_task(description: str) -> AbstractContextManager[str | None]:
    """What is asked in the block says that it is about a task of this description."""
    return setting(_task, description)


def approved(tool: BaseTool, function: Callable[..., Any], call: ToolCall) -> ToolCall:
    """The call as a person lets it be made; as it is, where nobody is to be asked.

    Args:
        tool: What is called.
        function: The function in it.
        call: How, and in which place.
    """
    if not _is_to_be_asked(tool, function, call):
        return call
    given, scope = _by_name(function, call), call.scope
    scope.run(_asked(call), lambda: None)
    decision = ask(scope, _approval(call), _asking(scope, tool, given), _decision)
    return _decided(tool, call, given, decision)


async def aapproved(tool: BaseTool, function: Callable[..., Any], call: ToolCall) -> ToolCall:
    """As `approved`, for async code."""
    if not _is_to_be_asked(tool, function, call):
        return call
    given, scope = _by_name(function, call), call.scope

    async def nothing() -> None: ...

    await scope.arun(_asked(call), nothing)
    decision = await aask(scope, _approval(call), _asking(scope, tool, given), _decision)
    return _decided(tool, call, given, decision)


def _is_to_be_asked(tool: BaseTool, function: Callable[..., Any], call: ToolCall) -> bool:
    scope, record, people = call.scope, call.scope.journal.record, policy.current()
    if record.is_recorded(scope.place, names.asked(call.what)):
        return True
    # One that is recorded has been made, with nobody asked.
    if not people.approve_tools or record.is_recorded(scope.place, call.what):
        return False
    return people.wants(ToolRequest(tool.name, _by_name(function, call), *_who(scope.path)))


def _asked(call: ToolCall) -> Call:
    """So that nobody who was asked is passed over, whatever the policy says by then."""
    return Call(names.asked(call.what), kind="asked", concurrent=True)


def _approval(call: ToolCall) -> Call:
    return Call(names.approval(call.what), kind="person", concurrent=True)


def _asking(scope: Scope, tool: BaseTool, given: dict[str, Any]) -> Asking:
    agent, task = _who(scope.path)
    # A request that waits already is known by the role as it is written.
    known_by = _question(tool, given, agent, task).shown_through(lambda data: shown(scope, data))
    question = _question(tool, given, policy.role_of(agent), task)
    return replace(Asking.by_policy("approval", question), about=known_by)


def _question(
    tool: BaseTool, given: dict[str, Any], agent: str | None, task: str | None
) -> Question:
    arguments = to_jsonable_python(given, fallback=str)
    return Question(
        message=f"May {agent or 'an agent'} call {tool.name}?",
        tool=tool.name,
        arguments=arguments,
        schema=tool.args_schema.model_json_schema(),
        edit=policy.current().edit,
        agent=agent,
        task=task,
        tool_description=tool.description.strip() or None,
        task_description=_task.get(),
    )


def _decision(said: Said) -> dict[str, Any]:
    if said.answer is not None:
        return {**said.answer, "by": said.by, "entry": said.name}
    if said.on_deadline == "approve":
        return {"is": "approve", "entry": said.name}
    return {"is": "reject", "reason": "nobody has answered in time", "entry": said.name}


def _decided(
    tool: BaseTool, asked: ToolCall, given: dict[str, Any], decision: dict[str, Any]
) -> ToolCall:
    # Under the answer: no other call, be it equal, is answered from the record of this one.
    call = replace(asked, scope=Scope(asked.scope.journal, decision["entry"], sequential=False))
    if decision["is"] == "reject":
        reason = decision.get("reason") or "no reason was given"
        return _refusal(
            call,
            f"A person has not allowed this call of {tool.name}: {reason}. It was not called. Do "
            "not call it like this again.",
        )
    edited = decision.get("arguments")
    if not edited:
        return call
    changed = json.dumps(edited)
    try:
        valid = tool.args_schema.model_validate({**given, **edited})
    except ValidationError as error:
        return _refusal(
            call,
            f"A person has changed the arguments of this call of {tool.name} to {changed}, which "
            f"the tool does not take: {error}. The tool was not called.",
        )
    kept = {name: getattr(valid, name) for name in type(valid).model_fields if name in edited}
    extra = {name: value for name, value in edited.items() if name not in kept}
    arguments = {**given, **kept, **extra}
    what = names.tool(sanitize_tool_name(tool.name), arguments)
    made = replace(call, what=what, args=(), kwargs=arguments)
    if getattr(tool, "result_as_answer", False):
        return made
    return replace(made, remark=f"(A person has changed the arguments of this call to {changed}.)")


def _refusal(call: ToolCall, text: str) -> ToolCall:
    return replace(call, remark=text, refused=True)


def _by_name(function: Callable[..., Any], call: ToolCall) -> dict[str, Any]:
    if not call.args:
        return dict(call.kwargs)
    bound = inspect.signature(function).bind(*call.args, **call.kwargs)
    found = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found.update(found.pop(name, {}))
    return found


def _who(path: str) -> tuple[str | None, str | None]:
    """The agent and the task that `path` is in."""
    agents = re.findall(r"(?:^|/)agent:([^#/]*)#", path)
    tasks = re.findall(r"(?:^|/)task:(?:\d+\.)?([^#/]*)#", path)
    return tuple(unquote(found[-1]) if found else None for found in (agents, tasks))  # type: ignore[return-value]
