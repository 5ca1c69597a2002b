"""The flow of one run: crewAI's engine, whose methods are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from crewai.flow.flow import Flow

from crewai_dbos._classes import durable_class, original_class, overrides
from crewai_dbos._crewai_seam.flow import definition_of
from crewai_dbos._flows import feedback, people
from crewai_dbos._flows.methods import MethodRun, executing
from crewai_dbos._flows.progress import FlowRun, depth
from crewai_dbos._flows.state.fields import (
    OF_NO_METHOD,
    PRIVATE_TO_CREWAI,
    own_dict,
    own_private,
)
from crewai_dbos._flows.state.tracking import touch_attribute
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._leases import RunVar
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._setting import setting
from crewai_dbos._stored import names

_RUN = "_crewai_dbos_run"
_ONLY_PRIVATE = "_crewai_dbos_only_private"
"""The private attributes of crewAI's that the flow's classes have nothing of."""

_execution: RunVar[MethodRun | None] = RunVar("crewai_dbos_method", default=None)


if TYPE_CHECKING:
    _Base = Flow[Any]
else:
    _Base = object


@overrides(Flow)
class _RunFlow(_Base):
    """Overrides of `Flow`."""

    async def _execute_single_listener(self, *args: Any, **kwargs: Any) -> Any:
        with setting(depth, depth.get() + 1):
            return await super()._execute_single_listener(*args, **kwargs)

    async def _execute_method(
        self, method_name: Any, method: Any, *args: Any, **kwargs: Any
    ) -> Any:
        run = _run_of(self)
        run.begin()
        original = super()._execute_method
        async with executing(run, str(method_name)) as execution:
            with setting(_execution, execution):
                return await original(method_name, execution.recorded(method), *args, **kwargs)

    async def _run_human_feedback_step(
        self, method_name: Any, feedback_definition: Any, method_output: Any
    ) -> Any:
        original = super()._run_human_feedback_step
        execution = _execution.get()
        assert execution is not None
        ask = lambda: original(method_name, feedback_definition, method_output)  # noqa: E731
        return await execution.feedback(ask, method_output)

    def _resolve_feedback_provider(self, definition: Any) -> Any:
        provider = super()._resolve_feedback_provider(definition)
        if provider is None or people.is_terminal(provider):
            return None
        return feedback.RecordedProvider(provider)

    def _request_human_feedback(
        self,
        message: str,
        output: Any,
        metadata: dict[str, Any] | None = None,
        emit: Sequence[str] | None = None,
        method_name: str = "",
    ) -> str:
        scope = run_scope.enclosing()
        if scope is None:
            original = super()._request_human_feedback
            return original(message, output, metadata, emit, method_name)
        asked = people.Review(message, output, metadata, emit, method_name)
        return people.feedback_on(self, scope, asked)

    def ask(
        self, message: str, timeout: float | None = None, metadata: dict[str, Any] | None = None
    ) -> str | None:
        original = super().ask
        scope = run_scope.enclosing()
        if scope is not None and people.is_terminal(super()._resolve_input_provider()):
            response = people.answer_to(self, scope, message, timeout, metadata)
            feedback.remember(self, message, response)
            return response
        call = lambda: Call(names.ASK, kind="person", request={"message": message})  # noqa: E731
        made: list[bool] = []

        def ask() -> str | None:
            made.append(True)
            return original(message, timeout, metadata)

        response = run_scope.record(call, ask)
        if not made:
            feedback.remember(self, message, response)
        return response

    def _persist_method_completion(self, method_name: Any) -> None:
        save = super()._persist_method_completion
        definition = definition_of(self)
        own = definition.methods[str(method_name)].persist
        chosen = own if own is not None else definition.persist
        if chosen is None or not chosen.enabled:
            save(method_name)
            return
        call = lambda: Call(names.PERSIST, kind="persist", background=True)  # noqa: E731
        run_scope.record(call, lambda: save(method_name))

    def __getattribute__(self, name: str) -> Any:
        # The engine asks for attributes of its own a hundred times for each method. Where pydantic
        # keeps most of them it looks only after what takes five times as long.
        if name in PRIVATE_TO_CREWAI:
            own, private = own_dict(self), own_private(self)
            if name in private and name not in own and name in own.get(_ONLY_PRIVATE, ()):
                return private[name]
        value = super().__getattribute__(name)
        if name in OF_NO_METHOD or name.startswith("__"):
            return value
        if type(value) is not MethodType or value.__self__ is not self:
            touch_attribute(self, name, value)
        return value

    def __getattr__(self, name: str) -> Any:
        # Which pydantic hides from type checkers.
        value = cast(Any, super()).__getattr__(name)
        touch_attribute(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        touch_attribute(self, name, None, changed=True)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        touch_attribute(self, name, None, changed=True)
        super().__delattr__(name)


def _run_of(flow: Any) -> FlowRun:
    run: FlowRun = flow.__dict__[_RUN]
    return run


def _only_private(flow: Flow[Any]) -> frozenset[str]:
    """What `_ONLY_PRIVATE` says of `flow`; nothing if the user's class looks itself."""
    bases = [vars(base) for base in original_class(type(flow)).__mro__[:-1]]
    if any("__getattribute__" in base for base in bases):
        return frozenset()
    private = PRIVATE_TO_CREWAI & own_private(flow).keys()
    return frozenset(name for name in private if not any(name in base for base in bases))


def flow_of_run(
    flow: Flow[Any], scope: Scope, options: AgentOptions
) -> tuple[Flow[Any], AbstractContextManager[None]]:
    """`flow`, a new one, made the durable flow of the run that `scope` is a place in.

    Returns:
        The flow, and a context in which what it does between its methods is recorded.
    """
    run = FlowRun(flow, scope, options)
    flow.__class__ = durable_class(_RunFlow, type(flow))
    flow.__dict__[_RUN] = run
    flow.__dict__[_ONLY_PRIVATE] = _only_private(flow)
    run.before = {name: flow.__dict__[name] for name in ("memory", "stream")}
    flow.stream = False
    if flow.memory is not None:
        flow.memory = run.objects.memory(flow.memory, options.llm_step_config)
    return flow, run.interceptor.active()


def finish(flow: Flow[Any]) -> None:
    """The engine has ended: `flow` is an ordinary one again, in the state that it ended in."""
    run = _run_of(flow)
    run.end()
    flow.__class__ = original_class(type(flow))
    del flow.__dict__[_RUN], flow.__dict__[_ONLY_PRIVATE]
    flow.__dict__.update(run.before)
