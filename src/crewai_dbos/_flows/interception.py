"""Objects of crewAI's own that a method of a durable flow uses as they are.

In a crew or an agent ours is a copy in which everything is durable. A method of a flow makes its
LLMs, agents and crews itself, or finds them in a module, so their classes are asked: while such a
method is at work, a call of an ordinary object goes through the durable copy of it. That gets the
method of crewAI's that was called: one of the user's own, which overrides it, has been run by then.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

from crewai import Agent, Crew
from crewai.crews.crew_output import CrewOutput
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool

from crewai_dbos import _patches
from crewai_dbos._agents import perform_agent
from crewai_dbos._agents.work_orders import AgentWorkOrder
from crewai_dbos._carrying import carry_context
from crewai_dbos._classes import is_made_here
from crewai_dbos._crewai_seam.agent import with_tools_bound_anew
from crewai_dbos._crewai_seam.llm import asked_for, share_usage
from crewai_dbos._crews import perform_crew
from crewai_dbos._crews.work_orders import CrewWorkOrder
from crewai_dbos._dbos_seam.errors import surviving
from crewai_dbos._flows.work_orders import FlowWorkOrder
from crewai_dbos._journal import run_scope
from crewai_dbos._objects.llm import follow
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._objects.tools import is_durable
from crewai_dbos._runs.definition import AgentDefinition, CrewDefinition, FlowDefinition
from crewai_dbos._runs.kind import kind_of
from crewai_dbos._stored import names
from crewai_dbos._threads import in_event_loop


class Interceptor:
    """Carries out the calls of ordinary objects in one run of a flow.

    Args:
        objects: The copies of the run.
        options: How their calls are recorded.
    """

    def __init__(self, objects: RunObjects, options: AgentOptions) -> None:
        self._objects = objects
        self._options = options
        self.run_id = objects.scope.run_id

    @contextmanager
    def active(self) -> Iterator[None]:
        """In the block, of a run or a method, calls of ordinary objects are recorded."""
        _patches.apply(_patches.METHOD)
        with run_scope.intercepting(self), carry_context():
            yield

    def llm(self, llm: BaseLLM) -> Any:
        """The durable copy of `llm`, which counts its tokens in the same place."""
        copied = self._objects.llm(llm, names.LLM, self._options.llm_step_config)
        follow(copied, llm)
        return share_usage(copied, llm)

    def tool(self, tool: BaseTool) -> Any:
        """The durable copy of `tool`."""
        return self._objects.tools([tool], self._options.tool_step_config)[0]

    def agent(self, agent: Agent) -> AgentDefinition:
        """A definition of `agent` for this place."""
        return AgentDefinition(agent.role, agent, self._options, owner=agent)

    def crew(self, crew: Crew) -> CrewDefinition:
        """A definition of `crew` for this place."""
        return CrewDefinition(crew.name or "crew", crew, self._options, {}, owner=crew)

    def flow(self, flow: Any) -> FlowDefinition:
        """A definition of `flow` for this place."""
        name = flow.name or type(flow).__name__
        return FlowDefinition(name, lambda: flow, self._options, owner=flow)


def _interceptor(of: Any) -> Interceptor | None:
    """Who carries out a call of `of` here; None if that is an ordinary call."""
    interceptor = cast("Interceptor | None", run_scope.interceptor())
    if interceptor is None or is_made_here(type(of)):
        return None
    scope = run_scope.enclosing()
    # A child workflow that a method started is recovered without that method.
    return interceptor if scope is not None and scope.run_id == interceptor.run_id else None


# What stands in place of a method of crewAI's. Each is made of a function that is given the method.


def _instead(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The replacement of a method: it is called as `function`, for whoever the thread works for."""

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(original)
            async def acalled(self: Any, *args: Any, **kwargs: Any) -> Any:
                return await _ain_its_context(lambda: function(original, self, *args, **kwargs))

            return acalled

        @functools.wraps(original)
        def called(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _in_its_context(lambda: function(original, self, *args, **kwargs))

        return called

    return replace


# LLMs, tools -----------------------------------------------------------------------


@_instead
def llm_call(original: Callable[..., Any], llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    interceptor = _interceptor(llm)
    if interceptor is None:
        return original(llm, *args, **kwargs)
    copied = interceptor.llm(llm)
    with asked_for(llm, copied):
        return copied.call(*args, **kwargs)


@_instead
async def llm_acall(original: Callable[..., Any], llm: BaseLLM, *args: Any, **kwargs: Any) -> Any:
    interceptor = _interceptor(llm)
    if interceptor is None:
        return await original(llm, *args, **kwargs)
    copied = interceptor.llm(llm)
    with asked_for(llm, copied):
        return await copied.acall(*args, **kwargs)


def deriving_llms(prepare: Any) -> Any:
    """`BaseLLM.__init_subclass__`: providers are imported, and classes defined, at any time."""

    def prepared(cls: Any, /, **kwargs: Any) -> None:
        prepare.__func__(cls, **kwargs)
        _patches.apply_to_derived(cls)

    return classmethod(prepared)


@_instead
def tool_run(original: Callable[..., Any], tool: BaseTool, *args: Any, **kwargs: Any) -> Any:
    interceptor = None if is_durable(tool) else _interceptor(tool)
    return original(tool if interceptor is None else interceptor.tool(tool), *args, **kwargs)


@_instead
async def tool_arun(original: Callable[..., Any], tool: BaseTool, *args: Any, **kwargs: Any) -> Any:
    interceptor = None if is_durable(tool) else _interceptor(tool)
    return await original(tool if interceptor is None else interceptor.tool(tool), *args, **kwargs)


@_instead
def structured_tool(original: Callable[..., Any], tool: BaseTool) -> Any:
    """What calls the tool as the executors of crewAI's agents do."""
    interceptor = _interceptor(tool)
    if interceptor is None or is_durable(tool):
        return original(tool)
    return interceptor.tool(tool).to_structured_tool()


@_instead
def lite_agent_kickoff(original: Callable[..., Any], agent: Any, *args: Any, **kwargs: Any) -> Any:
    """Its LLM is intercepted as it is; its tools are bound when it is made, which is done again."""
    if _interceptor(agent) is None:
        return original(agent, *args, **kwargs)
    return original(with_tools_bound_anew(agent), *args, **kwargs)


# Agents, crews, flows --------------------------------------------------------------


def _agent_order(kickoff: Callable[..., Any], *args: Any, **kwargs: Any) -> AgentWorkOrder | None:
    """The order of a kickoff with these arguments; None of one with a checkpoint of crewAI's.

    That may go on with another agent, whose requests are recorded one by one.
    """
    bound = inspect.signature(kickoff).bind(*args, **kwargs).arguments
    given = {name: value for name, value in bound.items() if name != "self" and value is not None}
    if "from_checkpoint" in given:
        return None
    response_format = given.pop("response_format", None)
    return AgentWorkOrder("kickoff", arguments=given, response_format=response_format)


@_instead
def agent_kickoff(original: Callable[..., Any], agent: Agent, *args: Any, **kwargs: Any) -> Any:
    interceptor = _interceptor(agent)
    if interceptor is None or in_event_loop():
        return original(agent, *args, **kwargs)
    order = _agent_order(original, agent, *args, **kwargs)
    if order is None:
        return original(agent, *args, **kwargs)
    return perform_agent.perform(interceptor.agent(agent), order, method=original)


@_instead
async def agent_akickoff(
    original: Callable[..., Any], agent: Agent, *args: Any, **kwargs: Any
) -> Any:
    interceptor = _interceptor(agent)
    if interceptor is None:
        return await original(agent, *args, **kwargs)
    order = _agent_order(original, agent, *args, **kwargs)
    if order is None:
        return await original(agent, *args, **kwargs)
    return await perform_agent.aperform(interceptor.agent(agent), order, method=original)


@_instead
def agent_task(
    original: Callable[..., Any], agent: Agent, task: Any, context: Any = None, tools: Any = None
) -> Any:
    interceptor = _interceptor(agent)
    if interceptor is None:
        return original(agent, task, context, tools)
    order = AgentWorkOrder("execute_task", task=task, tools=tools, arguments={"context": context})
    return perform_agent.perform(interceptor.agent(agent), order, method=original)


@_instead
async def agent_atask(
    original: Callable[..., Any], agent: Agent, task: Any, context: Any = None, tools: Any = None
) -> Any:
    interceptor = _interceptor(agent)
    if interceptor is None:
        return await original(agent, task, context, tools)
    order = AgentWorkOrder("execute_task", task=task, tools=tools, arguments={"context": context})
    return await perform_agent.aperform(interceptor.agent(agent), order, method=original)


@_instead
def crew_kickoff(
    original: Callable[..., Any],
    crew: Crew,
    inputs: Any = None,
    input_files: Any = None,
    from_checkpoint: Any = None,
) -> Any:
    interceptor = _interceptor(crew)
    if interceptor is None or crew.stream or in_event_loop() or from_checkpoint is not None:
        return original(crew, inputs, input_files, from_checkpoint)
    order = CrewWorkOrder(inputs, input_files)
    done = perform_crew.perform(interceptor.crew(crew), order, method=original)
    return _published(crew, done)


@_instead
async def crew_akickoff(
    original: Callable[..., Any],
    crew: Crew,
    inputs: Any = None,
    input_files: Any = None,
    from_checkpoint: Any = None,
) -> Any:
    interceptor = _interceptor(crew)
    if interceptor is None or crew.stream or from_checkpoint is not None:
        return await original(crew, inputs, input_files, from_checkpoint)
    order = CrewWorkOrder(inputs, input_files)
    done = await perform_crew.aperform(interceptor.crew(crew), order, method=original)
    return _published(crew, done)


def _published(crew: Crew, output: Any) -> Any:
    """Show on `crew` what crewAI shows on one after a kickoff. Returns `output`."""
    if isinstance(output, CrewOutput):
        usage = output.token_usage
        crew.__dict__.update(usage_metrics=usage.model_copy(), token_usage=usage.model_copy())
        if len(output.tasks_output) == len(crew.tasks):
            for task, done in zip(crew.tasks, output.tasks_output, strict=True):
                task.output = done
    return output


@_instead
async def flow_kickoff(
    original: Callable[..., Any],
    flow: Any,
    inputs: Any = None,
    input_files: Any = None,
    from_checkpoint: Any = None,
    restore_from_state_id: Any = None,
) -> Any:
    interceptor = None if type(flow).is_crewai_internal else _interceptor(flow)
    if interceptor is None or flow.stream or from_checkpoint is not None:
        return await original(flow, inputs, input_files, from_checkpoint, restore_from_state_id)
    order = FlowWorkOrder(inputs, input_files, restore_from_state_id)
    return await kind_of("flow").aperform(interceptor.flow(flow), order, False, original)


# The thread ------------------------------------------------------------------------


def _in_its_context(call: Callable[[], Any]) -> Any:
    """Make a call for whoever this thread works for."""
    context = run_scope.context_of_call()
    if context is None:
        return call()
    with surviving():
        return context.run(_in_its_context, call)


async def _ain_its_context(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    context = run_scope.context_of_call()
    if context is None:
        return await call()
    with surviving():
        return await context.run(asyncio.ensure_future, _ain_its_context(call))
