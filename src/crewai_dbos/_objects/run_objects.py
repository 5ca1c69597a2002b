"""The durable copies that one run works with.

crewAI leaves state on agents, LLMs and tools, so no run shares one with another. What several
agents of a run have in common stays common: an LLM counts its tokens once, a tool its uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from crewai.agents.cache.cache_handler import CacheHandler
from crewai.llms.base_llm import BaseLLM
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from crewai.utilities.llm_utils import create_llm

from crewai_dbos._crewai_seam.llm import is_llm, share_usage, usage_of
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects import callbacks
from crewai_dbos._objects.cache import RecordedCache
from crewai_dbos._objects.knowledge import durable_knowledge
from crewai_dbos._objects.llm import DBOSLLM, durable_llm
from crewai_dbos._objects.memory import drain, durable_memory
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.tools import durable_tool, is_durable
from crewai_dbos._secrets import known
from crewai_dbos._stored import names


class RunObjects:
    """Makes the durable copies of one run, one of each.

    Args:
        scope: The run's place in its workflow.
        shared_cache: Whether several agents may look into one tool cache side by side.
    """

    def __init__(self, scope: Scope, *, shared_cache: bool = False) -> None:
        self.scope = scope
        self._shared_cache = shared_cache
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._counting: dict[int, tuple[BaseLLM, BaseLLM]] = {}

    def _once(self, original: Any, what: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        key = (id(original), *what)
        if key not in self._made:
            # The original is kept, so that its id stays its own.
            self._made[key] = (original, make())
        return self._made[key][1]

    def llm(self, llm: Any, role: str, config: StepConfig | None) -> BaseLLM:
        """The copy of `llm`, or of what crewAI makes of it, whose requests are called `role`."""

        def make() -> BaseLLM:
            if _is_stand_in(llm):
                run_scope.warn_once(
                    f"The LLM {known.shown(llm)} is none of crewAI's, so what it is asked is not "
                    "recorded: it is asked again on recovery."
                )
                return llm  # type: ignore[no-any-return]
            resolved = llm if isinstance(llm, BaseLLM) else create_llm(llm)
            assert isinstance(resolved, BaseLLM)
            durable = durable_llm(resolved, role=role, config=config, scope=self.scope)
            # Copies that crewAI made of one LLM count in one place, and so do ours.
            counter = id(usage_of(resolved))
            _, first = self._counting.setdefault(counter, (resolved, durable))
            share_usage(durable, first)
            self._counting.setdefault(id(usage_of(first)), (first, first))
            return durable

        return self._once(llm, (role, id(config)), make)  # type: ignore[no-any-return]

    def memory(self, memory: Any, llm_config: StepConfig | None) -> Any:
        """The view of `memory` whose calls are recorded."""

        def asked(llm: BaseLLM) -> BaseLLM:
            known = isinstance(llm, DBOSLLM)
            return llm if known else self.llm(llm, names.MEMORY_LLM, llm_config)

        return self._once(
            memory, ("memory",), lambda: durable_memory(memory, self.scope, asked, llm_config)
        )

    def drain(self) -> None:
        """Wait for what the memories of the run still save in the background."""
        for (_, what, *_), (_, made) in list(self._made.items()):
            if what == "memory":
                drain(made)

    def knowledge(self, knowledge: Any, *, loaded: bool = True) -> Any:
        """The copy of `knowledge` whose queries are recorded.

        Args:
            loaded: Whether its sources are in its storage already. If not, the first query that is
                made puts them there.
        """
        make = lambda: durable_knowledge(knowledge, self.scope, loaded=loaded)  # noqa: E731
        return self._once(knowledge, ("knowledge",), make)

    def cache(self, handler: CacheHandler) -> CacheHandler:
        """An empty tool cache for this run in place of `handler`."""
        if isinstance(handler, RecordedCache):
            return handler
        cls = RecordedCache if self._shared_cache else CacheHandler
        return self._once(handler, ("cache",), cls)  # type: ignore[no-any-return]

    def guardrail(self, guardrail: Any, options: AgentOptions, known: Sequence[type] = ()) -> Any:
        """`guardrail`, a function or an `LLMGuardrail`, recorded."""
        if isinstance(guardrail, LLMGuardrail):
            copied = copy.copy(guardrail)
            if not isinstance(guardrail.llm, DBOSLLM):
                copied.llm = self.llm(guardrail.llm, names.GUARDRAIL_LLM, options.llm_step_config)
            return copied
        if callable(guardrail):
            return callbacks.recorded(guardrail, names.GUARDRAIL, keep=True, known=known)
        return guardrail

    def tools(
        self, tools: Sequence[BaseTool], config: ToolStepConfig, memory: Any = None
    ) -> list[BaseTool]:
        """Copies of `tools`.

        Args:
            config: What to do with those that have no DBOS decorator.
            memory: The memory of the run, for tools that read it or write to it.
        """

        def durable(tool: BaseTool) -> BaseTool:
            if _is_of_a_memory(tool):
                # The memory records what they do.
                return tool.model_copy(update={"memory": memory}) if memory else tool
            if isinstance(tool, BaseAgentTool):
                return tool  # what the coworker does is recorded call by call
            if is_durable(tool):
                return tool

            def make() -> BaseTool:
                self.scope.look_for_secrets(tool)
                return durable_tool(tool, config, self.scope)

            return self._once(tool, ("tool", id(config)), make)  # type: ignore[no-any-return]

        return [durable(tool) for tool in tools]


_MEMORY_TOOLS = "crewai.tools.memory_tools"


def _is_of_a_memory(tool: BaseTool) -> bool:
    """Whether `tool` is one of those with which an agent uses its memory."""
    # By name: crewAI imports their module for the first agent that has one, on any thread.
    return any(base.__module__ == _MEMORY_TOOLS for base in type(tool).__mro__)


def _is_stand_in(llm: Any) -> bool:
    """Whether `llm` is asked as an LLM of crewAI's is without being one, as a mock."""
    if isinstance(llm, (str, dict)) or is_llm(llm):
        return False
    return callable(getattr(llm, "call", None))
