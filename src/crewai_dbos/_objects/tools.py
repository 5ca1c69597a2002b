"""Tools: what their decoration means in a run, and the key that makes an effect repeatable."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from crewai import Agent
from crewai.tools.base_tool import BaseTool, Tool
from crewai.utilities.string_utils import sanitize_tool_name
from dbos import SetWorkflowID

from crewai_dbos._classes import replaced_methods
from crewai_dbos._crewai_seam.agent import arun_of, replace_arun, replace_run, run_of
from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._dbos_seam.decorated import decorated_kind, step_options_of
from crewai_dbos._dbos_seam.errors import DBOSUnexpectedStepError
from crewai_dbos._functions import attribute, look_like
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.config import (
    PLAIN,
    StepConfig,
    ToolStepConfig,
    check_tool_config,
    for_tool,
    from_dbos_options,
)
from crewai_dbos._journal.open_calls import open_call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._people.approval import ToolCall, aapproved, approved
from crewai_dbos._people.policy import People
from crewai_dbos._stored import names
from crewai_dbos._threads import ThreadOrTask, finished
from crewai_dbos.errors import DefinitionError, OutsideRunError

_RECORDED = "_crewai_dbos_recorded"


def idempotency_key() -> str:
    """A key for the tool call that is running, to hand to a service that drops duplicates.

    The same when the call is made again because a crash cut it short; different for every other
    call, also for another call with equal arguments. 32 hex digits. In a workflow that a tool
    started it is that workflow's, in a DBOS step of yours that step's.

    Raises:
        OutsideRunError: The code is not part of a DBOS workflow.

    Example::

        from crewai.tools import tool
        from crewai_dbos import idempotency_key

        @tool
        def pay(invoice: str, cents: int) -> str:
            '''Pay an invoice.'''
            # A payment service makes one payment for one key, however often it is asked.
            return f"{cents} for {invoice} with the key {idempotency_key()}"
    """
    call = open_call()
    context = current_context()
    scope = run_scope.around()
    if call is not None:
        run_id, name = call.run_id, call.name
    elif context is None or not context.is_within_workflow():
        raise OutsideRunError(
            "idempotency_key() works inside a tool call of a durable run. Outside one there is "
            "nothing that would be made again."
        )
    elif context.is_step():
        run_id, name = context.workflow_id, f"step {context.function_id}"
    else:
        run_id, name = context.workflow_id, scope.path if scope is not None else ""
    return hashlib.sha256(f"{run_id}\0{name}".encode()).hexdigest()[:32]


def tool_function(tool: BaseTool) -> Callable[..., Any]:
    """The user's function in a tool: what `@tool` decorated, or the class's ``_run``."""
    return tool.func if isinstance(tool, Tool) else run_of(tool)


def is_durable(tool: BaseTool) -> bool:
    return attribute(tool_function(tool), _RECORDED) is not None


def durable_tool(tool: BaseTool, config: ToolStepConfig, scope: Scope | None) -> BaseTool:
    """A copy of `tool` for one run.

    What happens to its calls depends on the decoration of its function: a DBOS step is an entry
    with the step's own options, a DBOS workflow a child workflow, a datasource transaction runs
    once, an undecorated one is an entry if `config` names it and is made again on recovery if not.
    """
    copied = tool.model_copy()
    copied.current_usage_count = 0
    recorded = _recorded(tool, _original(tool_function(tool)), config, scope)
    if isinstance(copied, Tool):
        copied.func = recorded
    else:
        replace_run(copied, recorded)
    if (function := arun_of(tool)) is not None:
        replace_arun(copied, _arecorded(tool, _original(function), config, scope))
    return copied


def _original(function: Callable[..., Any]) -> Callable[..., Any]:
    found: Callable[..., Any] = attribute(function, _RECORDED, function)
    return found


def check_tools(
    agents: Sequence[Agent],
    config: ToolStepConfig,
    others: Sequence[BaseTool] = (),
    people: People | None = None,
) -> None:
    """Refuse options about tools that can't mean anything for `agents`.

    Args:
        others: Tools that are used beside theirs.
        people: Who approves calls of which.

    Raises:
        DefinitionError: A config names no tool, or asks for what a sync tool can't do.
    """
    tools = [*(tool for agent in agents for tool in agent.tools or []), *others]
    known = {tool.name for tool in tools}
    # Tools that crewAI adds have names that are not known yet.
    closed = not any(a.mcps or a.apps or a.memory or a.allow_delegation for a in agents)
    if closed and config is not None and not isinstance(config, StepConfig):
        _check_known("tool_step_config", config, known)
    if closed and people is not None and not callable(people.approve_tools):
        names_of_models = {sanitize_tool_name(name) for name in known}
        _check_known("approve_tools", people.tools, names_of_models)
    for tool in tools:
        for method in replaced_methods(tool):
            if method in ("run", "arun"):
                raise DefinitionError(
                    f"{method} of the tool {tool.name!r} has been replaced on the object, where "
                    "its calls would not be recorded. Replace its func or its _run instead, or "
                    "derive a class."
                )
        function = tool_function(tool)
        chosen = for_tool(config, tool.name)
        if chosen is not None and decorated_kind(function) is None:
            check_tool_config(tool.name, chosen, function)


def _check_known(option: str, chosen: Iterable[str], known: set[str]) -> None:
    if unknown := sorted(set(chosen) - known):
        raise DefinitionError(
            f"{option} names {', '.join(map(repr, unknown))}, but the tools are "
            f"{', '.join(map(repr, sorted(known))) or 'none'}"
        )


def _recorded(
    tool: BaseTool, function: Callable[..., Any], config: ToolStepConfig, bound: Scope | None
) -> Callable[..., Any]:
    kind, step = _how(tool, function, config)

    def call_tool(*args: Any, **kwargs: Any) -> Any:
        scope = run_scope.for_call(bound, f"call of tool {tool.name!r}")
        if scope is None:
            return function(*args, **kwargs)
        call = approved(tool, function, _as_call(tool, scope, args, kwargs))
        if call.refused:
            return call.remark
        return call.result_with_remark(made(call))

    def made(allowed: ToolCall) -> Any:
        scope, args, kwargs = allowed.scope, allowed.args, allowed.kwargs
        if step is not None:
            call = _entry(allowed, step)
            if kind is None and step == PLAIN:
                # What it does with DBOS, an agent or a crew is recorded inside.
                work = lambda: finished(function(*args, **kwargs))  # noqa: E731
                return scope.group(call, work, sequential=True)
            return scope.run(call, _bound(function, args, kwargs))
        if kind is None:
            _warn_unrecorded(tool.name)
        scope.journal.execution.check()
        with _inside(allowed, kind):
            return finished(function(*args, **kwargs))

    look_like(call_tool, function)
    setattr(call_tool, _RECORDED, function)
    return call_tool


def _arecorded(
    tool: BaseTool, function: Callable[..., Any], config: ToolStepConfig, bound: Scope | None
) -> Callable[..., Any]:
    """As `_recorded`, for an async function on the loop of whoever calls it."""
    kind, step = _how(tool, function, config)

    async def call_tool(*args: Any, **kwargs: Any) -> Any:
        scope = run_scope.for_call(bound, f"call of tool {tool.name!r}")
        if scope is None:
            return await function(*args, **kwargs)
        call = await aapproved(tool, function, _as_call(tool, scope, args, kwargs))
        if call.refused:
            return call.remark
        return call.result_with_remark(await made(call))

    async def made(allowed: ToolCall) -> Any:
        scope, args, kwargs = allowed.scope, allowed.args, allowed.kwargs

        async def work() -> Any:
            found = function(*args, **kwargs)
            return await found if inspect.isawaitable(found) else found

        if step is not None:
            call = _entry(allowed, step)
            if kind is None and step == PLAIN:
                return await scope.agroup(call, work, sequential=True)
            return await scope.arun(call, work)
        if kind is None:
            _warn_unrecorded(tool.name)
        await scope.journal.execution.acheck()
        with _inside(allowed, kind):
            return await work()

    look_like(call_tool, function)
    setattr(call_tool, _RECORDED, function)
    return call_tool


def _how(
    tool: BaseTool, function: Callable[..., Any], config: ToolStepConfig
) -> tuple[str | None, StepConfig | None]:
    """What DBOS has made of `function`, and how its calls are recorded, if they are."""
    kind = decorated_kind(function)
    if kind == "step":
        return kind, from_dbos_options(step_options_of(function))
    return kind, for_tool(config, tool.name) if kind is None else None


def _as_call(
    tool: BaseTool, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ToolCall:
    what = names.tool(sanitize_tool_name(tool.name), [args, kwargs] if args else kwargs)
    return ToolCall(scope.around or scope, what, args, kwargs)


def _entry(call: ToolCall, step: StepConfig) -> Call:
    return Call(call.what, kind="tool", config=step, concurrent=True, as_text=str)


@contextmanager
def _inside(call: ToolCall, kind: str | None) -> Iterator[None]:
    """The block makes a call that has no entry of its own."""
    scope = call.scope
    inside = scope.child(call.what, runs_on=ThreadOrTask.here())
    of_dbos = SetWorkflowID(f"{scope.run_id}/{inside.path}") if kind == "workflow" else None
    with scope.journal.activity.working(), inside.entered(), of_dbos or nullcontext():
        try:
            yield
        except DBOSUnexpectedStepError as error:
            scope.fail(error)


def _bound(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], Any]:
    if not inspect.iscoroutinefunction(function):
        return lambda: finished(function(*args, **kwargs))

    async def work() -> Any:
        return await function(*args, **kwargs)

    return work


def _warn_unrecorded(tool_name: str) -> None:
    run_scope.warn_once(
        f"Tool {tool_name!r} is not recorded: after a crash its finished calls are made again. "
        "Decorate its function with @DBOS.step(), or pass tool_step_config=StepConfig()."
    )
