"""Carrying out an order of an agent, in a workflow of its own or in one that it joins."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import UUID

from crewai import Agent
from dbos import DBOS

from crewai_dbos._agents import run_agent, work_orders
from crewai_dbos._agents.work_orders import AgentWorkOrder
from crewai_dbos._crewai_seam.agent import publish_agent_state
from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._journal.scope import Scope, stable_id
from crewai_dbos._objects import events, hooks_of_crews
from crewai_dbos._runs import body, workflows
from crewai_dbos._runs.definition import AgentDefinition
from crewai_dbos._runs.kind import Kind
from crewai_dbos._runs.registry import agents
from crewai_dbos._stored import names


def perform(
    definition: AgentDefinition,
    order: AgentWorkOrder,
    own: bool = False,
    method: Callable[..., Any] | None = None,
) -> Any:
    """Carry out `order` in the workflow that is open here. Returns what crewAI returns.

    Args:
        own: Whether the workflow was opened for this order.
        method: What does it, if not the method of the agent's class: that has been called already,
            and has come to this.
    """
    with _joined(definition, order, own) as scope, _agent(definition, order, scope, own) as agent:
        if order.method == "kickoff":
            begin = method or type(agent).kickoff
            return begin(agent, response_format=order.response_format, **order.arguments)
        task, tools = _for_run(agent, order, scope, own)
        if order.method == "execute_task":
            execute = method or type(agent).execute_task
            return execute(agent, task, tools=tools, **order.arguments)
        agent.create_agent_executor(tools=tools, task=task)
        assert agent.agent_executor is not None
        return agent.agent_executor.invoke(**order.arguments)


async def aperform(
    definition: AgentDefinition,
    order: AgentWorkOrder,
    own: bool = False,
    method: Callable[..., Any] | None = None,
) -> Any:
    """As `perform`, through crewAI's async methods."""
    # It has joined under its name before it goes elsewhere: here coroutines start in a known order.
    with _joined(definition, order, own) as scope:
        return await body.off_the_loop_of_dbos(
            lambda: _acarry_out(definition, order, scope, own, method)
        )


KIND = Kind(
    registry=agents,
    load=work_orders.load,
    perform=perform,
    aperform=aperform,
    workflow=workflows.run_agent,
    async_workflow=workflows.run_agent_async,
    instead="aexecute_task, kickoff_async or akickoff",
    attributes=lambda order: {names.TASK_ATTRIBUTE: str(order.task.id)} if order.task else {},
)


async def _acarry_out(
    definition: AgentDefinition,
    order: AgentWorkOrder,
    scope: Scope,
    own: bool,
    method: Callable[..., Any] | None,
) -> Any:
    with _agent(definition, order, scope, own) as agent:
        await scope.unless_abandoned()
        if order.method == "kickoff":
            begin = method or type(agent).kickoff_async
            return await begin(agent, response_format=order.response_format, **order.arguments)
        task, tools = _for_run(agent, order, scope, own)
        if order.method == "execute_task":
            execute = method or type(agent).aexecute_task
            return await execute(agent, task, tools=tools, **order.arguments)
        agent.create_agent_executor(tools=tools, task=task)
        assert agent.agent_executor is not None
        return await agent.agent_executor.invoke_async(**order.arguments)


def _joined(
    definition: AgentDefinition, order: AgentWorkOrder, own: bool
) -> AbstractContextManager[Scope]:
    return body.joined(definition, names.agent(definition.name), None if own else order.digest())


@contextmanager
def _agent(
    definition: AgentDefinition, order: AgentWorkOrder, scope: Scope, own: bool
) -> Iterator[Agent]:
    """The agent that works in `scope`."""
    with hooks_of_crews.of_run() as made:
        agent = run_agent.agent_of_run(definition, scope, order.given)
    try:
        # A workflow of the agent's own fails as the agent fails; another goes on, perhaps.
        ended = nullcontext() if own else body.ending(scope)
        with ended, hooks_of_crews.in_effect(made), _at_work(agent):
            yield agent
    finally:
        publish_agent_state(agent, definition.owner)


@contextmanager
def _at_work(agent: Agent) -> Iterator[None]:
    """When the block is left, handlers and saves that `agent` set going have ended."""
    with events.handled():
        try:
            yield
        finally:
            run_agent.finish(agent)


def _id_of_task(run_id: str) -> UUID | None:
    """The id of the task that the user has given; None of a run that does not tell."""
    status = detached(DBOS.get_workflow_status, run_id)
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        return UUID(status.attributes[names.TASK_ATTRIBUTE])  # type: ignore[index,union-attr]
    return None


def _for_run(agent: Agent, order: AgentWorkOrder, scope: Scope, own: bool) -> tuple[Any, Any]:
    assert order.task is not None
    task = copy.copy(order.task)
    if own:
        # The order was read anew: its task would have another id in each execution.
        task.__dict__["id"] = _id_of_task(scope.run_id) or stable_id(scope, "task")
    task.agent = agent
    tools = None if order.tools is None else run_agent.durable_tools(agent, order.tools)
    return task, tools
