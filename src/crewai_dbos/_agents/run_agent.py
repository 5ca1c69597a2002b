"""The agent of one run: a copy of the user's, each part of it durable."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crewai import Agent
from crewai.agents.agent_executor import AgentExecutor
from crewai.agents.tools_handler import ToolsHandler
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool
from crewai.utilities.prompts import VALID_DATE_FORMAT_CODES

from crewai_dbos._agents import crew_settings
from crewai_dbos._agents.executor import DBOSAgentExecutor
from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._crewai_seam.agent import (
    follow_overlay,
    forget_agent_state,
    rate_limit,
    set_rate_limit,
)
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects import callbacks, mcp
from crewai_dbos._objects.conversion import recording
from crewai_dbos._objects.llm import DBOSLLM
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._runs.definition import AgentDefinition
from crewai_dbos._stored import names

_RUN = "_crewai_dbos_run"


@dataclass(frozen=True)
class _Run:
    """What the agent of a run belongs to."""

    options: AgentOptions
    objects: RunObjects


def agent_class(cls: type[Agent]) -> type[Agent]:
    """That of the agents of runs, for agents of class `cls`."""
    return durable_class(RunAgent, cls)


def agent_of_run(definition: AgentDefinition, scope: Scope, given: Mapping[str, Any]) -> Agent:
    """A fresh durable agent of `definition` for the run that `scope` is a place in.

    Args:
        given: What this run has instead of the definition's; see `crew_settings`.
    """
    template = definition.build()
    scope.look_for_secrets(template, given)
    agent = copy.copy(template)
    forget_agent_state(agent)
    crew_settings.give(given, agent, scope)
    agent.__class__ = agent_class(type(template))
    make_durable(agent, definition.options, RunObjects(scope))
    return agent


def make_durable(agent: Agent, options: AgentOptions, objects: RunObjects) -> None:
    """Replace each part of `agent`, a copy of the user's, by the one of the run."""
    agent.__dict__[_RUN] = _Run(options, objects)
    agent.agent_executor = None
    agent.executor_class = DBOSAgentExecutor
    agent.tools_results = []
    _give_cache(agent, objects)
    _give_llms(agent, options, objects)
    if agent.memory:
        agent.memory = objects.memory(agent.memory, options.llm_step_config)
    agent.tools = durable_tools(agent, agent.tools or [])
    if agent.knowledge is not None:
        agent.knowledge = objects.knowledge(agent.knowledge)
    if rate_limit(agent) is not None:
        set_rate_limit(agent, NoWaitOnReplay(rate_limit(agent)))
    if agent.step_callback is not None:
        agent.step_callback = callbacks.recorded(agent.step_callback, names.STEP_CALLBACK)
    if agent.guardrail is not None:
        agent.guardrail = objects.guardrail(agent.guardrail, options)
    if agent.inject_date:
        agent.__dict__["date_format"] = _recorded_date(objects.scope, agent.date_format)


def durable_tools(agent: Agent, tools: Sequence[BaseTool]) -> list[BaseTool]:
    """Copies of `tools` for the run of `agent`."""
    run: _Run = agent.__dict__[_RUN]
    return run.objects.tools(tools, run.options.tool_step_config, agent.memory)


def finish(agent: Agent) -> None:
    """Wait for what the agent still does in the background."""
    run: _Run = agent.__dict__[_RUN]
    run.objects.drain()


if TYPE_CHECKING:
    _Base = Agent
else:
    _Base = object


@overrides(Agent)
class RunAgent(_Base):
    """Overrides of `Agent` for tools, executors and converters that crewAI makes during the run."""

    def get_mcp_tools(self, mcps: Any) -> list[BaseTool]:
        tools = super().get_mcp_tools(mcps)
        return durable_tools(self, mcp.with_recorded_names(mcp.without_secrets(tools)))

    def get_platform_tools(self, apps: Any) -> list[BaseTool]:
        tools = super().get_platform_tools(apps)
        return durable_tools(self, tools)

    def get_output_converter(self, **fields: Any) -> Any:  # type: ignore[override]
        converter = super().get_output_converter(**fields)
        converter.__class__ = recording(converter.__class__)
        return converter

    def _resolved_overlay(self, declared: BaseLLM | None) -> BaseLLM | None:
        """As crewAI's, which builds another LLM when the inputs change the role."""
        resolved = super()._resolved_overlay(declared)
        if resolved is None or isinstance(resolved, DBOSLLM):
            return resolved
        run: _Run = self.__dict__[_RUN]
        durable = run.objects.llm(resolved, names.LLM, run.options.llm_step_config)
        follow_overlay(self, resolved, durable)
        return durable

    def _prepare_kickoff(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_kickoff(*args, **kwargs)
        executor = prepared[0]
        # Agent.kickoff names AgentExecutor itself and ignores executor_class.
        if type(executor) is AgentExecutor:
            executor.__class__ = DBOSAgentExecutor
            executor.use_better_compaction = self.use_better_compaction
        return prepared


def _give_llms(agent: Agent, options: AgentOptions, objects: RunObjects) -> None:
    config = options.llm_step_config
    durable = objects.llm(agent.llm, names.LLM, config)
    follow_overlay(agent, agent.llm, durable)
    agent.llm = durable
    calling = agent.__dict__.get("function_calling_llm")
    if calling is not None:
        agent.__dict__["function_calling_llm"] = objects.llm(
            calling, names.FUNCTION_CALLING_LLM, options.function_calling_llm_step_config
        )
    planning = agent.planning_config
    if planning is not None and planning.llm is not None:
        llm = objects.llm(planning.llm, names.PLANNING_LLM, config)
        agent.planning_config = planning.model_copy(update={"llm": llm})


def _give_cache(agent: Agent, objects: RunObjects) -> None:
    shared = agent.tools_handler.cache if agent.tools_handler is not None else None
    agent.tools_handler = ToolsHandler()
    if shared is not None:
        agent.cache_handler = objects.cache(shared)
        agent.tools_handler.cache = agent.cache_handler


def _recorded_date(scope: Scope, date_format: str) -> str:
    """A format that renders as the day on which the run started, whenever it is resumed."""
    if not any(code in date_format for code in VALID_DATE_FORMAT_CODES):
        return date_format
    call = Call(names.DATE, kind="clock", request={"format": date_format})
    today = scope.run(call, lambda: datetime.now().strftime(date_format))
    return _Literal(today.replace("%", "%%"))


class _Literal(str):
    """A date format without a code, for crewAI, which looks for one before it uses a format."""

    def __contains__(self, _: object) -> bool:
        return True


class NoWaitOnReplay:
    """A requests-per-minute limit shared by all runs; a recorded request does not count."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def check_or_wait(self) -> bool:
        scope = run_scope.enclosing()
        if scope is not None and scope.is_recorded(names.LLM):
            return True
        return bool(self._controller.check_or_wait())

    def stop_rpm_counter(self) -> None:
        """Nothing: the limit is shared with other runs, which go on counting."""
