"""`DBOSAgentExecutor`: crewAI's agent loop, unchanged, inside a DBOS workflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from crewai import Crew, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.agents.agent_executor import AgentExecutor, AgentExecutorState
from crewai.agents.parser import AgentFinish
from crewai.flow.runtime import FlowState
from crewai.utilities.agent_utils import extract_tool_call_info, is_inside_event_loop
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import ConfigDict, Field, SkipValidation

from crewai_dbos._classes import overrides
from crewai_dbos._crewai_seam.agent import has_artifacts, has_step_executor, keep_artifacts_in
from crewai_dbos._dbos_seam.instance import is_launched
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects.artifacts import StableArtifacts
from crewai_dbos._objects.tools import is_durable
from crewai_dbos._people.review import reviewing
from crewai_dbos._stored import names
from crewai_dbos._threads import ThreadOrTask


class StateWithId(FlowState, AgentExecutorState):
    """The class that crewAI makes anew, of the same name, for each executor: that takes 10 ms."""

    model_config = ConfigDict(defer_build=True)


@overrides(AgentExecutor)
class DBOSAgentExecutor(AgentExecutor):
    """An `AgentExecutor` whose `invoke` runs inside a DBOS workflow.

    The one that is open is joined; if none is, one is opened. Either needs an agent that a fresh
    process can find: this is the ``executor_class`` of every `DBOSAgent`. With an ordinary agent
    it is an ordinary executor, and says so once.
    """

    model_config = ConfigDict(defer_build=True)

    # Validated once more, a crew would get a memory, a log and a clock anew, and a task its
    # guardrails: those of crewAI, which are not recorded.
    crew: SkipValidation[Crew | None] = Field(default=None, exclude=True)
    task: SkipValidation[Task | None] = Field(default=None, exclude=True)
    agent: SkipValidation[BaseAgent | None] = Field(default=None, exclude=True)

    # A subclass of a crewAI Flow finds only flow methods of its own body.
    _flow_definition: ClassVar[Any] = AgentExecutor.flow_definition()
    _initial_state_t: ClassVar[Any] = StateWithId

    def invoke(self, inputs: dict[str, Any]) -> Any:
        """Run the agent loop.

        Args:
            inputs: What crewAI's agent passes: ``input`` (the prompt), ``tools``, ``tool_names``.

        Returns:
            ``{"output": answer}``, or a coroutine of it inside an event loop.
        """
        if is_inside_event_loop():
            return self.invoke_async(inputs)
        opened = _opener(self)
        if opened is None:
            return super().invoke(inputs)
        return opened.invoke_executor(self.task, inputs)

    async def invoke_async(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As `invoke`, for async code."""
        opened = _opener(self)
        if opened is None:
            return await super().invoke_async(inputs)
        result: dict[str, Any] = await opened.ainvoke_executor(self.task, inputs)
        return result

    def _handle_human_feedback(self, formatted_answer: AgentFinish) -> AgentFinish:
        with reviewing():
            return super()._handle_human_feedback(formatted_answer)

    async def _ahandle_human_feedback(self, formatted_answer: AgentFinish) -> AgentFinish:
        with reviewing():
            return await super()._ahandle_human_feedback(formatted_answer)

    def _prepare_tool_result_for_context(self, execution_result: dict[str, Any]) -> str:
        if not has_artifacts(self) and run_scope.enclosing() is not None:
            keep_artifacts_in(self, StableArtifacts())
        return super()._prepare_tool_result_for_context(execution_result)

    def _execute_single_native_tool_call(self, tool_call: Any) -> dict[str, Any]:
        scope = run_scope.enclosing()
        info = extract_tool_call_info(tool_call)
        if scope is None or info is None:
            return super()._execute_single_native_tool_call(tool_call)
        _, name, arguments = info
        # Equal calls of one reply go one after the other: whether the second finds the first in
        # crewAI's tool cache must not depend on which thread was faster.
        what = names.tool(name, arguments)
        with scope.lock(what), _branch(self, scope, what, name):
            return super()._execute_single_native_tool_call(tool_call)

    def _ensure_step_executor(self) -> Any:
        created = not has_step_executor(self)
        step_executor = super()._ensure_step_executor()
        if created:
            step_executor.execute = _in_its_own_branch(step_executor.execute)
        return step_executor


def _opener(executor: AgentExecutor) -> Any:
    """The `DBOSAgent` whose run has to be opened or joined first; None if that is done."""
    if not is_launched() or run_scope.in_step() or run_scope.around() is not None:
        return None
    if hasattr(executor.agent, "invoke_executor"):
        return executor.agent
    role = getattr(executor.agent, "role", "?")
    run_scope.warn_once(
        f"The agent {role!r} has a DBOSAgentExecutor but is no DBOSAgent, so its calls are not "
        "recorded. Wrap it: DBOSAgent(agent_name=..., orig_agent=agent)."
    )
    return None


def _branch(
    executor: AgentExecutor, scope: Scope, what: str, name: str
) -> AbstractContextManager[Any]:
    """A branch of the run for a tool that crewAI added; ours open their own."""
    for tool in executor.original_tools:
        if sanitize_tool_name(tool.name) == name and is_durable(tool):
            # For its hooks and events; the call itself belongs to `scope`.
            return scope.child(names.around(what), around=scope).entered()
    return scope.child(what, runs_on=ThreadOrTask.here()).entered()


def _in_its_own_branch(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Each planned step is a branch of the run, because crewAI runs ready ones side by side."""

    def run(
        todo: Any, context: Any, max_step_iterations: int = 15, step_timeout: int | None = None
    ) -> Any:
        scope = run_scope.enclosing()
        if scope is None:
            return execute(todo, context, max_step_iterations, step_timeout)
        what = names.todo(todo.step_number)
        if step_timeout is None:
            with scope.child(what).entered():
                return execute(todo, context, max_step_iterations)
        # What a time limit cut short can't be found out by replaying it.
        call = Call(what, kind="todo", concurrent=True)
        return scope.group(
            call,
            lambda: execute(todo, context, max_step_iterations, step_timeout),
            sequential=True,
        )

    return run
