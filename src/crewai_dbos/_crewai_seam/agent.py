"""What is private in crewAI's agents and in what they work with: executor, tools, memory.

crewAI is not imported before an agent is there: the search for secrets asks for a name of this
module in processes that never load crewAI.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from crewai import Agent
    from crewai.agents.agent_executor import AgentExecutor
    from crewai.lite_agent import LiteAgent
    from crewai.llms.base_llm import BaseLLM
    from crewai.tools.base_tool import BaseTool
    from crewai.utilities.tool_result_artifacts import ToolResultArtifactStore

RATE_LIMIT = "_rpm_controller"
"""The attribute of an agent with what limits its requests per minute."""

LAST_MESSAGES = "_last_messages"
"""The attribute of an agent with its last conversation."""

_AS_WRITTEN = {
    "role": "_original_role",
    "goal": "_original_goal",
    "backstory": "_original_backstory",
    "description": "_original_description",
    "expected_output": "_original_expected_output",
}
"""By the text of an agent or a task the attribute with what it was before inputs were filled in."""


def forget_agent_state(agent: Agent) -> None:
    """Give a shallow copy of an agent the private state of one that has done nothing yet."""
    from crewai.agents.agent_builder.utilities.base_token_process import TokenProcess

    private = dict(agent.__pydantic_private__ or {})
    object.__setattr__(agent, "__pydantic_private__", private)
    fresh = {
        "_times_executed": 0,
        "_token_process": TokenProcess(),
        "_tool_failures": [],
        "_last_messages": [],
        "_mcp_resolver": None,
        "_kickoff_event_id": None,
    }
    private.update({name: value for name, value in fresh.items() if name in private})


def publish_agent_state(run: Agent, owner: Agent) -> None:
    """Show on the user's agent what crewAI reads from it after a run: last messages, usage."""
    from crewai_dbos._crewai_seam.llm import counting, is_llm

    owner._last_messages = list(run._last_messages)
    owner._tool_failures = list(run._tool_failures)
    if is_llm(owner.llm) and is_llm(run.llm):
        total = owner.llm._token_usage
        with counting:
            for counter, spent in run.llm._token_usage.items():
                total[counter] = total.get(counter, 0) + spent


def with_tools_bound_anew(agent: LiteAgent) -> LiteAgent:
    """A copy of `agent` that calls its tools as they are here."""
    from crewai.utilities.agent_utils import parse_tools

    bound = agent.model_copy()
    bound._parsed_tools = parse_tools(agent.tools)
    return bound


def follow_overlay(agent: Agent, built: Any, instead: Any) -> None:
    """Have `agent` know `instead` again as what `llm_overlay` has built, if that was `built`."""
    if agent._overlay_built is built:
        agent._overlay_built = instead


def last_messages(agent: Agent) -> list[Any]:
    """The last conversation of `agent`, as it is kept there."""
    return list(agent._last_messages)


def rate_limit(agent: Agent) -> Any:
    """What limits the requests per minute of `agent`; None if nothing does."""
    return agent._rpm_controller


def set_rate_limit(agent: Agent, controller: Any) -> None:
    """Have `agent` ask `controller` before each request."""
    agent._rpm_controller = controller


def original_text(thing: Any, field: str) -> Any:
    """A text of an agent or a task as the user wrote it, before inputs were filled in.

    Args:
        thing: The agent or task; an adapter to another library has its text alone.
        field: ``role``, ``goal``, ``backstory``, ``description`` or ``expected_output``.
    """
    return getattr(thing, _AS_WRITTEN[field], None) or getattr(thing, field, None)


# Executor ----------------------------------------------------------------------


def has_artifacts(executor: AgentExecutor) -> bool:
    """Whether `executor` has a place for large tool results already."""
    return executor._tool_result_artifact_store is not None


def keep_artifacts_in(executor: AgentExecutor, store: ToolResultArtifactStore) -> None:
    """Have `executor` put large tool results in `store`."""
    executor._tool_result_artifact_store = store


def artifacts_kept(store: ToolResultArtifactStore) -> Sized:
    """The ids of the results in `store`."""
    return store._artifact_ids


def has_step_executor(executor: AgentExecutor) -> bool:
    """Whether `executor` has made what carries out the steps of its plan."""
    return executor._step_executor is not None


# Tools -------------------------------------------------------------------------


def run_of(tool: BaseTool) -> Callable[..., Any]:
    """What the class of `tool` does when it is called."""
    return tool._run


def replace_run(tool: BaseTool, function: Callable[..., Any]) -> None:
    """Have `tool`, a copy, do `function` when it is called."""
    object.__setattr__(tool, "_run", function)


def arun_of(tool: BaseTool) -> Callable[..., Any] | None:
    """What the class of `tool` does when async code calls it; None if it is for sync code only."""
    from crewai.tools.base_tool import BaseTool, Tool

    if isinstance(tool, Tool) and type(tool)._arun is Tool._arun:
        function = inspect.unwrap(tool.func)
        return tool.func if inspect.iscoroutinefunction(function) else None
    return None if type(tool)._arun is BaseTool._arun else tool._arun


def replace_arun(tool: BaseTool, function: Callable[..., Any]) -> None:
    """Have `tool`, a copy, do async `function` when async code calls it."""
    object.__setattr__(tool, "_arun", function)


# Memory ------------------------------------------------------------------------


def memory_behind(memory: Any) -> Any:
    """The `Memory` that a scope or a slice is a part of; any other object itself."""
    return getattr(memory, "_memory", memory)


def is_in_default_folder(memory: Any) -> bool:
    """Whether a `Memory` keeps what it saves in the folder that crewAI takes by default.

    Who has set a factory of stores has chosen another place.
    """
    from crewai.memory.storage import factory

    return memory.storage in ("lancedb", "qdrant-edge") and factory._factory is None


def put_behind(view: Any, memory: Any) -> None:
    """Make `view`, a copy of a scope or a slice, a part of `memory`."""
    view._memory = memory


def forget_saves(memory: Any) -> None:
    """Give a shallow copy of a `Memory` a list of its own of what it still saves."""
    memory._pending_saves = []


def memory_llm(memory: Any) -> BaseLLM | None:
    """The LLM that a `Memory` asks; None if it has not made one yet."""
    return cast("BaseLLM | None", memory._llm_instance)


def set_memory_llm(memory: Any, llm: BaseLLM) -> None:
    """Have a `Memory` ask `llm`."""
    memory._llm_instance = llm
