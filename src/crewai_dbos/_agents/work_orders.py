"""What a run is asked to do, as live objects and as the plain JSON that is stored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from crewai import Task
from crewai.tools.base_tool import BaseTool
from pydantic import BaseModel

from crewai_dbos._agents import crew_settings
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._objects.tools import tool_function
from crewai_dbos._runs.definition import AgentDefinition
from crewai_dbos._stored import work_order
from crewai_dbos._stored.digest import digest
from crewai_dbos._stored.type_paths import load_type, type_path
from crewai_dbos._stored.work_order import TASK_MODELS
from crewai_dbos.errors import DefinitionError, UnstorableInputError, UnstorableValueError

_PLAIN = ("name", "description", "expected_output", "markdown", "human_input", "prompt_context")


@dataclass
class AgentWorkOrder:
    """One call of an agent.

    Attributes:
        method: ``execute_task``, ``kickoff`` or ``invoke``.
        task: The task, for ``execute_task`` and ``invoke``.
        tools: The task's tools, if it brings its own.
        arguments: The other arguments; each has a JSON form.
        response_format: The model that `kickoff` is asked to answer with.
        given: What was set on the agent since it was defined; see `crew_settings`.
    """

    method: str
    task: Task | None = None
    tools: list[BaseTool] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    response_format: type[BaseModel] | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Stands for what is asked, to tell orders apart that are carried out side by side."""
        task = self.task
        # In this order ever since: the digest is a part of stored names.
        asked = [getattr(task, name, None) for name in (*_PLAIN, *sorted(TASK_MODELS))]
        tools = None if self.tools is None else sorted(tool.name for tool in self.tools)
        texts = {name: self.given[name] for name in crew_settings.TEXTS if name in self.given}
        asked += [tools, self.response_format]
        return digest([self.method, asked, self.arguments, texts])

    def models(self) -> tuple[type, ...]:
        """The classes that are asked for."""
        given = [getattr(self.task, name, None) for name in TASK_MODELS]
        return tuple(each for each in (*given, self.response_format) if isinstance(each, type))

    def stored(self, definition: AgentDefinition) -> dict[str, Any]:
        """The work order as plain JSON.

        Raises:
            UnstorableInputError: Something in it could not be rebuilt by another process.
        """
        fields: dict[str, Any] = {"arguments": work_order.encoded("The arguments", self.arguments)}
        if given := crew_settings.stored(self.given, definition.owner, definition.name):
            fields["given"] = given
        if self.task is not None:
            fields["task"] = _stored_task(self.task)
        if self.tools is not None:
            fields["tools"] = _stored_tools(self.tools, definition)
        if self.response_format is not None:
            fields["response_format"] = _importable("response_format", self.response_format)
        head = {"agent": definition.name, "method": self.method}
        return work_order.written(head, fields, definition.redact)


def kickoff_order(
    messages: Any, response_format: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AgentWorkOrder:
    """The call of ``kickoff`` with these arguments.

    Raises:
        DefinitionError: It is to go on from a checkpoint of crewAI.
    """
    positional = ("input_files", "from_checkpoint")
    extra = {**dict(zip(positional, args, strict=False)), **kwargs}
    given = {name: value for name, value in extra.items() if value is not None}
    if "from_checkpoint" in given:
        raise DefinitionError(
            "A DBOSAgent resumes its runs by itself. To go on from a checkpoint of crewAI, kick "
            "off the ordinary agent: orig_agent.kickoff(from_checkpoint=...)."
        )
    return AgentWorkOrder(
        "kickoff",
        arguments={"messages": messages, **given},
        response_format=cast("type[Any] | None", response_format),
    )


_METHODS = ("execute_task", "kickoff", "invoke")
_ORDER = ("agent", "method", "arguments", "given", "task", "tools", "response_format")


def load(stored: Mapping[str, Any], definition: AgentDefinition) -> AgentWorkOrder:
    """The live objects of a stored order.

    Raises:
        UnstorableValueError: It can't be carried out here.
    """
    work_order.check(stored, _ORDER)
    if stored.get("method") not in _METHODS:
        raise UnstorableValueError(f"An agent has no method {stored.get('method')!r} to run")
    model = stored.get("response_format")
    return AgentWorkOrder(
        method=stored["method"],
        task=_loaded_task(work_order.field(stored, "task")) if "task" in stored else None,
        tools=_loaded_tools(stored["tools"], definition) if "tools" in stored else None,
        arguments=work_order.field(stored, "arguments"),
        response_format=load_type(model, BaseModel) if model else None,
        given=crew_settings.loaded(stored.get("given", {}), definition.owner),
    )


def _stored_task(task: Task) -> dict[str, Any]:
    if task.input_files:
        raise UnstorableInputError(
            "Task.input_files are given to the agent by the crew that the task is in, which a "
            "fresh process would not have. Make the crew a DBOSCrew, or pass the files to "
            "kickoff(input_files=...) of the agent."
        )
    stored = {name: getattr(task, name, None) for name in _PLAIN}
    stored = {name: value for name, value in stored.items() if value not in (None, False)}
    for name in TASK_MODELS:
        model = getattr(task, name, None)
        if model is not None:
            stored[name] = _importable(f"Task.{name}", model)
    return dict(work_order.encoded("The task", stored))


def _loaded_task(stored: Mapping[str, Any]) -> Task:
    fields = dict(stored)
    if unknown := set(fields) - {*_PLAIN, *TASK_MODELS}:
        raise UnstorableValueError(f"A task of an order has no {sorted(unknown)[0]!r}")
    for name in TASK_MODELS:
        if name in fields:
            fields[name] = load_type(fields[name], BaseModel)
    return Task(**fields)


def _stored_tools(tools: list[BaseTool], definition: AgentDefinition) -> list[str]:
    known = _tools_of(definition)
    for tool in tools:
        if tool.name not in known or not _are_alike(tool, known[tool.name]):
            raise UnstorableInputError(
                f"Tool {tool.name!r} was handed to DBOSAgent {definition.name!r} at call time, so "
                "a fresh process would not find it. Add it to the tools of the agent that is "
                "wrapped. If a crew adds it, for its memory or to delegate, call the crew inside "
                "a @DBOS.workflow()."
            )
    return [tool.name for tool in tools]


def _are_alike(tool: BaseTool, other: BaseTool) -> bool:
    """Whether the two do the same: one class, and one function in it."""
    functions = [tool_function(each) for each in (tool, other)]
    places = [(f.__module__, f.__qualname__) for f in functions if inspect.isroutine(f)]
    return type(tool) is type(other) and places[:1] == places[1:]


def _loaded_tools(used: list[str], definition: AgentDefinition) -> list[BaseTool]:
    known = _tools_of(definition)
    missing = [name for name in used if name not in known]
    if missing:
        raise UnstorableValueError(
            f"The run uses the tool {missing[0]!r}, which the agent {definition.name!r} no longer "
            "has. Put it back."
        )
    return [known[name] for name in used]


def _tools_of(definition: AgentDefinition) -> dict[str, BaseTool]:
    with hooks_of_crews.of_run():
        agent = definition.build()
    tools = list(agent.tools or [])
    if agent.memory:
        # As crewAI does: without a memory nobody needs them.
        from crewai.tools.memory_tools import create_memory_tools

        tools += create_memory_tools(agent.memory)
    return {tool.name: tool for tool in tools}


def _importable(what: str, model: type) -> str:
    try:
        return type_path(model)
    except UnstorableValueError as error:
        raise UnstorableInputError(f"{what}: {error}") from None
