"""The agent of one run: a copy of the user's, each part of it durable.

crewAI leaves state on an agent (its executor, tool results, usage, retry counts), so no run shares
an agent, an LLM or a tool with another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

from crewai import Agent
from crewai.agents.agent_executor import AgentExecutor
from crewai.agents.cache.cache_handler import CacheHandler
from crewai.agents.tools_handler import ToolsHandler
from crewai.llms.base_llm import BaseLLM
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from crewai.tools.memory_tools import RecallMemoryTool, RememberTool
from crewai.utilities.llm_utils import create_llm
from crewai.utilities.prompts import VALID_DATE_FORMAT_CODES

from crewai_dbos import _given, _names, _run_scope
from crewai_dbos._crewai_seam import forget_agent_state
from crewai_dbos._definition import AgentDefinition
from crewai_dbos._entry import Call
from crewai_dbos._executor import DBOSAgentExecutor
from crewai_dbos._llm import DBOSLLM, durable_llm
from crewai_dbos._memory import drain, durable_knowledge, durable_memory
from crewai_dbos._scope import Scope
from crewai_dbos._tools import durable_tool

_RUN = "_crewai_dbos_run"


def agent_of_run(definition: AgentDefinition, scope: Scope, given: Mapping[str, Any]) -> Agent:
    """A fresh durable agent of `definition` for the run that `scope` is a place in.

    Args:
        given: What this run has instead of the definition's; see `_given`.
    """
    template = definition.build()
    agent = copy.copy(template)
    agent.__class__ = _run_agent_class(type(template))
    agent.__dict__[_RUN] = (definition, scope)
    forget_agent_state(agent)
    _given.give(given, agent, scope)
    agent.agent_executor = None
    agent.executor_class = DBOSAgentExecutor
    agent.tools_results = []
    _give_cache(agent, template)
    _give_llms(agent, definition, scope)
    agent.tools = durable_tools(agent, agent.tools or [])
    if agent.memory:
        agent.memory = durable_memory(agent.memory, scope, definition.llm_step_config)
    if agent.knowledge is not None:
        agent.knowledge = durable_knowledge(agent.knowledge, scope)
    if agent._rpm_controller is not None:
        agent._rpm_controller = cast(Any, _NoWaitOnReplay(agent._rpm_controller))
    if agent.inject_date:
        agent.__dict__["date_format"] = _recorded_date(scope, agent.date_format)
    return agent


def durable_tools(agent: Agent, tools: Sequence[BaseTool]) -> list[BaseTool]:
    """Copies of `tools` for the run of `agent`."""
    definition, scope = agent.__dict__[_RUN]

    def durable(tool: BaseTool) -> BaseTool:
        if isinstance(tool, (RecallMemoryTool, RememberTool)):
            # The memory records what they do.
            return tool.model_copy(update={"memory": agent.memory}) if agent.memory else tool
        if isinstance(tool, BaseAgentTool):
            return tool  # what the coworker does is recorded call by call
        return durable_tool(tool, definition.tool_step_config, scope)

    return [durable(tool) for tool in tools]


def finish(agent: Agent) -> None:
    """Wait for what the agent still does in the background."""
    if agent.memory:
        drain(agent.memory)


class _RunAgent:
    """Overrides of `Agent` for tools and executors that crewAI makes during the run."""

    def get_mcp_tools(self, mcps: Any) -> list[BaseTool]:
        tools = super().get_mcp_tools(mcps)  # type: ignore[misc]
        return durable_tools(cast(Agent, self), tools)

    def get_platform_tools(self, apps: Any) -> list[BaseTool]:
        tools = super().get_platform_tools(apps)  # type: ignore[misc]
        return durable_tools(cast(Agent, self), tools)

    def _prepare_kickoff(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_kickoff(*args, **kwargs)  # type: ignore[misc]
        executor = prepared[0]
        # Agent.kickoff names AgentExecutor itself and ignores executor_class.
        if type(executor) is AgentExecutor:
            executor.__class__ = DBOSAgentExecutor
            executor.use_better_compaction = cast(Agent, self).use_better_compaction
        return prepared


@cache
def _run_agent_class(cls: type[Agent]) -> type[Agent]:
    return type(cls.__name__, (_RunAgent, cls), {"__module__": cls.__module__})


def _give_llms(agent: Agent, definition: AgentDefinition, scope: Scope) -> None:
    def durable(llm: Any, role: str, config: Any) -> BaseLLM:
        resolved = llm if isinstance(llm, BaseLLM) else create_llm(llm)
        assert isinstance(resolved, BaseLLM)
        return durable_llm(resolved, role=role, config=config, scope=scope)

    config = definition.llm_step_config
    agent.llm = durable(agent.llm, _names.LLM, config)
    calling = agent.__dict__.get("function_calling_llm")
    if calling is not None:
        agent.__dict__["function_calling_llm"] = durable(
            calling, _names.FUNCTION_CALLING_LLM, definition.function_calling_llm_step_config
        )
    planning = agent.planning_config
    if planning is not None and planning.llm is not None:
        llm = durable(planning.llm, _names.PLANNING_LLM, config)
        agent.planning_config = planning.model_copy(update={"llm": llm})
    guardrail = agent.guardrail
    if isinstance(guardrail, LLMGuardrail) and not isinstance(guardrail.llm, DBOSLLM):
        copied = copy.copy(guardrail)
        copied.llm = durable(guardrail.llm, _names.GUARDRAIL_LLM, config)
        agent.guardrail = cast(Any, copied)


def _give_cache(agent: Agent, template: Agent) -> None:
    agent.tools_handler = ToolsHandler()
    if template.tools_handler.cache is not None:
        agent.cache_handler = CacheHandler()
        agent.tools_handler.cache = agent.cache_handler


def _recorded_date(scope: Scope, date_format: str) -> str:
    """A format that renders as the day on which the run started, whenever it is resumed."""
    if not any(code in date_format for code in VALID_DATE_FORMAT_CODES):
        return date_format
    call = Call(_names.DATE, kind="clock", request={"format": date_format})
    today = scope.journal.run(scope, call, lambda: datetime.now().strftime(date_format))
    return _Literal(today.replace("%", "%%"))


class _Literal(str):
    """A date format without a code, for crewAI, which looks for one before it uses a format."""

    def __contains__(self, _: object) -> bool:
        return True


class _NoWaitOnReplay:
    """A requests-per-minute limit shared by all runs; a recorded request does not count."""

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def check_or_wait(self) -> bool:
        scope = _run_scope.enclosing()
        if scope is not None and scope.journal.record.is_recorded(scope, _names.LLM):
            return True
        return bool(self._controller.check_or_wait())

    def stop_rpm_counter(self) -> None:
        """Other runs go on counting."""
