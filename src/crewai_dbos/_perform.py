"""Carrying out an order: the body of a run, whether it has a workflow of its own or joins one."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from crewai import Agent
from dbos import DBOS

from crewai_dbos import _codec, _events, _mcp, _names, _order, _run_agent, _run_scope
from crewai_dbos._crewai_seam import publish_agent_state
from crewai_dbos._dbos_seam import current_context, detached, on_the_loop_of_dbos
from crewai_dbos._definition import AgentDefinition, agents
from crewai_dbos._errors import DriftError, RunSuspended, UnstorableValueError
from crewai_dbos._handle import storable
from crewai_dbos._order import Order
from crewai_dbos._scope import Scope
from crewai_dbos._threads import on_a_loop_of_its_own, on_a_thread

logger = logging.getLogger("crewai_dbos")

DEFINITION_GRACE = 1.0
"""Seconds that a recovered run waits for its definition before it says that it is missing."""


def run(stored: Mapping[str, Any]) -> Any:
    """Carry out a stored order inside the workflow opened for it."""
    definition = _definition_of(stored)
    with _closing():
        return _codec.encode(perform(definition, _loaded(stored, definition), own=True))


async def arun(stored: Mapping[str, Any]) -> Any:
    """As `run`, on an event loop of its own; see `aperform`."""
    definition = await on_a_thread(lambda: _definition_of(stored))

    async def work() -> Any:
        with _closing():
            order = _loaded(stored, definition)
            return _codec.encode(await aperform(definition, order, own=True))

    return await on_a_loop_of_its_own(work)


def perform(definition: AgentDefinition, order: Order, *, own: bool = False) -> Any:
    """Carry out `order` in the workflow that is open here. Returns what crewAI returns.

    Args:
        own: Whether the workflow was opened for this order.
    """
    with _part(definition, order, own) as scope, _agent(definition, order, scope, own) as agent:
        if order.method == "kickoff":
            return agent.kickoff(response_format=order.response_format, **order.arguments)
        task, tools = _for_run(agent, order)
        if order.method == "execute_task":
            return agent.execute_task(task, tools=tools, **order.arguments)
        agent.create_agent_executor(tools=tools, task=task)
        assert agent.agent_executor is not None
        return agent.agent_executor.invoke(**order.arguments)


async def aperform(definition: AgentDefinition, order: Order, *, own: bool = False) -> Any:
    """As `perform`, through crewAI's async methods.

    These block the loop they run on in many places (memory, MCP discovery, planning). On DBOS's
    loop that would be every other run's loop, and the one that this run waits for.
    """
    # The part has its name before it goes elsewhere: here coroutines start in a known order.
    with _part(definition, order, own) as scope:
        if on_the_loop_of_dbos():
            return await on_a_loop_of_its_own(lambda: _acarry_out(definition, order, scope, own))
        return await _acarry_out(definition, order, scope, own)


async def _acarry_out(definition: AgentDefinition, order: Order, scope: Scope, own: bool) -> Any:
    with _agent(definition, order, scope, own) as agent:
        await scope.journal.unless_given_up(scope.path)
        if order.method == "kickoff":
            return await agent.kickoff_async(
                response_format=order.response_format, **order.arguments
            )
        task, tools = _for_run(agent, order)
        if order.method == "execute_task":
            return await agent.aexecute_task(task, tools=tools, **order.arguments)
        agent.create_agent_executor(tools=tools, task=task)
        assert agent.agent_executor is not None
        return await agent.agent_executor.invoke_async(**order.arguments)


@contextmanager
def _part(definition: AgentDefinition, order: Order, own: bool) -> Iterator[Scope]:
    """The part of the open workflow in which `order` is carried out."""
    _events.install()
    _mcp.install()
    outer = _run_scope.enclosing()
    assert outer is not None
    with (
        _run_scope.surfacing(outer),
        _run_scope.joined(_names.agent(definition.name), None if own else order.digest()) as scope,
    ):
        yield scope


@contextmanager
def _agent(definition: AgentDefinition, order: Order, scope: Scope, own: bool) -> Iterator[Agent]:
    """The agent that works in `scope`. A workflow of its own may fail as the agent fails; another
    goes on, perhaps, so the failure is recorded."""
    agent = _run_agent.agent_of_run(definition, scope, order.given)
    started = time.time()
    try:
        if own:
            with _at_work(agent):
                yield agent
            return
        scope.journal.replay_failed_part(scope)
        try:
            with _at_work(agent):
                yield agent
        except asyncio.CancelledError:
            scope.journal.give_up(scope.path, time.time() - started)
            raise
        except Exception as error:
            scope.journal.fail_part(scope, error)
    finally:
        publish_agent_state(agent, definition.front)


@contextmanager
def _at_work(agent: Agent) -> Iterator[None]:
    """When the block is left, handlers and saves that `agent` set going have ended."""
    with _events.handled():
        try:
            yield
        finally:
            _run_agent.finish(agent)


def _loaded(stored: Mapping[str, Any], definition: AgentDefinition) -> Order:
    try:
        return _order.load(stored, definition)
    except UnstorableValueError as error:
        context = current_context()
        assert context is not None
        stopped = DriftError(f"{error} Then DBOS.resume_workflow({context.workflow_id!r}).")
        _run_scope.stop(context.workflow_id, stopped)
        raise stopped from error


def _for_run(agent: Agent, order: Order) -> tuple[Any, Any]:
    assert order.task is not None
    task = copy.copy(order.task)
    task.agent = agent
    tools = None if order.tools is None else _run_agent.durable_tools(agent, order.tools)
    return task, tools


def _definition_of(stored: Mapping[str, Any]) -> AgentDefinition:
    name = stored["agent"]
    definition = agents.find(name, timeout=DEFINITION_GRACE)
    if definition is None:
        _suspend(name)
    assert definition is not None
    context = current_context()
    assert context is not None
    _run_scope.clear_note(context.workflow_id)
    return definition


def _suspend(name: str) -> None:
    """Leave the run PENDING until its agent is defined, and say so where it will be looked for."""
    context = current_context()
    assert context is not None
    run_id = context.workflow_id
    known = ", ".join(map(repr, agents.names())) or "none"
    why = (
        f"no DBOSAgent named {name!r} is defined in this process (defined: {known}). Import the "
        f"module that builds it before DBOS.launch(). The run goes on at the next launch, as soon "
        f"as the agent is built, or with DBOS.resume_workflow({run_id!r})."
    )
    logger.error("Run %s waits: %s", run_id, why)
    _run_scope.note(run_id, {"waiting": why})
    agents.when_added(name, lambda: _resume(run_id))
    raise RunSuspended(why)


def _resume(run_id: str) -> None:
    detached(DBOS.resume_workflow, run_id)


@contextmanager
def _closing() -> Iterator[None]:
    """The block is the whole of a run that has a workflow of its own."""
    context = current_context()
    assert context is not None
    try:
        yield
    except Exception as error:
        raise storable(error, _run_scope.secrets_of(context)) from error.__cause__
    finally:
        _run_scope.close(context)
