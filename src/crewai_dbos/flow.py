"""`DBOSFlow`: a crewAI flow whose kickoffs survive the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from crewai.flow.flow import Flow
from dbos import DBOS, SetWorkflowID
from pydantic import PrivateAttr

from crewai_dbos import _codec, _perform_flow, _run_scope, _sessions, _workflows, doctor
from crewai_dbos._config import AgentOptions, StepConfig, ToolStepConfig, recording_others
from crewai_dbos._dbos_seam import assigned_workflow_id, is_launched
from crewai_dbos._definition import FlowDefinition, build_flow, flows
from crewai_dbos._errors import DefinitionError
from crewai_dbos._feedback import Pending
from crewai_dbos._flow_order import FlowOrder
from crewai_dbos._flow_state import classes
from crewai_dbos._handle import RunHandle, own_run
from crewai_dbos._threads import in_event_loop

_ASSIGNED = "_crewai_dbos_assigned"


class DBOSFlow(Flow[Any]):
    """Wraps a crewAI flow: each of its kickoffs is a DBOS workflow that a fresh process finishes.

    With DBOS launched, a kickoff opens a workflow, or joins the one that is open, and
    ``self.state.id`` is its id. A method that has ended is not run again: what it returned and what
    it did to the state is restored. A method that was cut short runs again from its beginning, with
    the calls it made answered from the record: LLMs, agents, crews, tools and flows, crewAI's own
    or durable ones, DBOS steps and child workflows. Without DBOS a kickoff is that of the flow.

    ``state``, ``method_outputs`` and ``usage_metrics`` are those of the last run that this process
    has carried out.

    Args:
        flow_name: Stored with every run. Unique in the process; keep it over releases.
        orig_flow: The flow class, or a callable without arguments that builds a flow. Each run gets
            a new one.
        llm_step_config: Retries of LLM requests; see `StepConfig`. By default five attempts
            after rate limits, timeouts, lost connections and 5xx.
        function_calling_llm_step_config: The same for the ``function_calling_llm`` of agents.
        tool_step_config: What to do with tools that have no DBOS decorator. A `StepConfig` (the
            default) records all of them. A mapping of tool names gives some of them another one;
            None opts a tool out, or all of them: it is called again on recovery.

    Raises:
        DefinitionError: The name is empty or taken, or `orig_flow` builds no flow.
    """

    _durable: FlowDefinition = PrivateAttr()
    _talking: Any = PrivateAttr(default=None)

    def __init__(
        self,
        *,
        flow_name: str,
        orig_flow: Callable[[], Any],
        llm_step_config: StepConfig | None = None,
        function_calling_llm_step_config: StepConfig | None = None,
        tool_step_config: ToolStepConfig = StepConfig(),  # noqa: B008
    ) -> None:
        if isinstance(orig_flow, DBOSFlow):
            raise DefinitionError(f"{orig_flow.flow_name!r} is a DBOSFlow already: use it as it is")
        template = build_flow(orig_flow)
        options = AgentOptions(
            llm_step_config=llm_step_config,
            function_calling_llm_step_config=function_calling_llm_step_config,
            tool_step_config=tool_step_config,
        )
        definition = FlowDefinition(flow_name, orig_flow, recording_others(options), front=self)
        self._become(template, definition)
        flows.add(definition)
        doctor.warn(self)

    def take_after(self, flow: Flow[Any]) -> None:
        """Show the state, the outputs and the usage of `flow`, whose kickoff has ended."""
        stream = self.stream
        self._become(flow, self._durable)
        self.stream = stream

    def _become(self, other: Flow[Any], definition: FlowDefinition) -> None:
        """Become a view of `other`: the same fields, without building them again."""
        talking = (self.__dict__ and self._talking) or None
        private = {
            **(other.__pydantic_private__ or {}),
            "_durable": definition,
            "_talking": talking,
        }
        object.__setattr__(self, "__dict__", dict(other.__dict__))
        object.__setattr__(self, "__pydantic_extra__", other.__pydantic_extra__)
        object.__setattr__(self, "__pydantic_fields_set__", set(other.__pydantic_fields_set__))
        object.__setattr__(self, "__pydantic_private__", private)

    @property
    def flow_name(self) -> str:
        """The name that is stored with this flow's runs."""
        return self._durable.name

    @property
    def orig_flow(self) -> Flow[Any]:
        """A new flow of the kind that was wrapped."""
        return self._durable.build()

    def plot(self, filename: str = "crewai_flow.html", show: bool = True) -> str:
        """As `Flow.plot`, of the flow that was wrapped."""
        return self.orig_flow.plot(filename, show)

    # Runs --------------------------------------------------------------------

    def kickoff(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
        restore_from_state_id: str | None = None,
    ) -> Any:
        """Run the flow as a DBOS workflow. See `Flow.kickoff`.

        Args:
            inputs: What the state is filled with. Stored, so plain data. With ``id`` the state has
                that id instead of the run's, and begins as ``@persist`` has kept it.
            input_files: Files by name. Stored, so of a kind that has a JSON form.
            restore_from_state_id: The id of a state kept by ``@persist`` to begin with.

        Returns:
            What the last method returned; with ``stream=True`` a `StreamSession`, which carries the
            run out while it is iterated. What is answered from the record has no chunks.

        Raises:
            UnstorableInputError: The inputs could not be rebuilt by another process.
            RunConflictError: The workflow id belongs to a run of something else.
        """
        order = self._order(inputs, input_files, from_checkpoint, restore_from_state_id)
        if self._is_ordinary():
            return self._shown(flow := self.orig_flow, lambda: flow.kickoff(**order.arguments()))
        if self.stream:
            # crewAI's own streaming, which comes back here without it.
            return Flow.stream_events(self._view(), **order.arguments())
        if in_event_loop():
            raise RuntimeError(
                f"DBOSFlow {self.flow_name!r} was kicked off synchronously inside an event loop. "
                "Use kickoff_async or akickoff."
            )
        if _run_scope.in_workflow():
            return self._returned(_perform_flow.perform(self._durable, order))
        stored = order.stored(self._durable)
        with self._assigned_id(), own_run(stored):
            return self._returned(_codec.decode(_workflows.run_flow(stored), classes(self)))

    async def kickoff_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
        restore_from_state_id: str | None = None,
    ) -> Any:
        """As `kickoff`, for async code."""
        order = self._order(inputs, input_files, from_checkpoint, restore_from_state_id)
        if self._is_ordinary():
            flow = self.orig_flow
            try:
                return await flow.kickoff_async(**order.arguments())
            finally:
                self.take_after(flow)
        if self.stream:
            return Flow.astream(self._view(), **order.arguments())
        if _run_scope.in_workflow():
            return self._returned(await _perform_flow.aperform(self._durable, order))
        stored = order.stored(self._durable)
        with self._assigned_id(), own_run(stored):
            return self._returned(
                _codec.decode(await _workflows.run_flow_async(stored), classes(self))
            )

    async def akickoff(self, *args: Any, **kwargs: Any) -> Any:
        """As `kickoff_async`."""
        return await self.kickoff_async(*args, **kwargs)

    def handle_turn(
        self,
        message: str,
        *,
        session_id: str | None = None,
        intents: Sequence[str] | None = None,
        intent_llm: Any = None,
        **kickoff_kwargs: Any,
    ) -> Any:
        """One turn of a conversation, as a DBOS workflow. See `Flow.handle_turn`.

        Turns are runs with the ids ``flow_name/session_id/1``, ``2``, ... Each begins with the
        state that the last one ended with, in any process, whether or not there is ``@persist``.

        Args:
            message: What the user says.
            session_id: Names the conversation; by default it is that of this object.
            intents: As of `Flow.handle_turn`.
            intent_llm: As of `Flow.handle_turn`; a model's name, so that it can be stored.

        Returns:
            What the turn's last method returned.

        Raises:
            ValueError: The flow is not conversational.
            UnstorableInputError: Something given could not be rebuilt by another process.
        """
        if not self._is_conversational_enabled():
            raise ValueError("DBOSFlow.handle_turn() is only available on conversational flows")
        if kickoff_kwargs:
            raise TypeError(f"handle_turn of a DBOSFlow takes no {', '.join(kickoff_kwargs)}")
        session_id = session_id or str(self.state.id)
        turn = {
            "message": message,
            "session_id": session_id,
            "intents": None if intents is None else list(intents),
            "intent_llm": intent_llm,
        }
        if self._is_ordinary():
            flow = self._talking or self.orig_flow
            self._talking = flow
            return self._shown(flow, lambda: flow.handle_turn(**turn))
        if _run_scope.in_workflow():
            return self._returned(_perform_flow.perform(self._durable, FlowOrder(turn=turn)))
        following = _sessions.next_turn(self.flow_name, session_id, classes(self))
        stored = FlowOrder(turn=turn, state=following.state).stored(self._durable)
        given = assigned_workflow_id() or self.__dict__.get(_ASSIGNED)
        with SetWorkflowID(given or following.run_id), own_run(stored):
            return self._returned(_codec.decode(_workflows.run_flow(stored), classes(self)))

    def start(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
    ) -> RunHandle:
        """Begin a run and return at once.

        Args:
            inputs: As of `kickoff`.
            input_files: As of `kickoff`.
            queue: The name of a registered DBOS queue to put the run on; ``SetEnqueueOptions``
                applies to it.

        Returns:
            The run; ``get_result()`` waits for what its last method returned.

        Raises:
            UnstorableInputError: As of `kickoff`.
            RunConflictError: The workflow id belongs to a run of something else.
            CrewaiDbosError: DBOS is not launched.
        """
        if not is_launched():
            raise DefinitionError(
                f"DBOSFlow {self.flow_name!r} was started before DBOS.launch(), so nothing would "
                "carry the run out. Launch DBOS first."
            )
        stored = FlowOrder(inputs, input_files).stored(self._durable)
        with own_run(stored):
            if queue is None:
                handle = DBOS.start_workflow(_workflows.run_flow, stored)
            else:
                handle = DBOS.enqueue_workflow(queue, _workflows.run_flow, stored)
        return RunHandle(handle.workflow_id, classes(self))

    def retrieve(self, run_id: str) -> RunHandle:
        """The run with this workflow id, in this process or another, finished or not."""
        return RunHandle(run_id, classes(self))

    def _order(
        self, inputs: Any, input_files: Any, from_checkpoint: Any, restore_from: str | None
    ) -> FlowOrder:
        if from_checkpoint is not None:
            raise DefinitionError(
                "A DBOSFlow resumes its runs by itself. To go on from a checkpoint of crewAI, kick "
                "off the ordinary flow: orig_flow.kickoff(from_checkpoint=...)."
            )
        if inputs is not None and not isinstance(inputs, Mapping):
            raise TypeError(f"inputs must be a dict or Mapping, got {type(inputs).__name__}")
        return FlowOrder(inputs, input_files, restore_from)

    def _view(self) -> DBOSFlow:
        """This flow for one stream, which is iterated when its workflow id is not set any more."""
        view = DBOSFlow.__new__(DBOSFlow)
        view._become(self, self._durable)
        view.__dict__[_ASSIGNED] = assigned_workflow_id()
        return view

    def _assigned_id(self) -> AbstractContextManager[Any]:
        run_id = self.__dict__.get(_ASSIGNED)
        return nullcontext() if run_id is None else SetWorkflowID(run_id)

    def _is_ordinary(self) -> bool:
        """Whether a kickoff here is not recorded on its own."""
        _run_scope.warn_if_in_step(f"DBOSFlow {self.flow_name!r}")
        return not is_launched() or _run_scope.in_step()

    def _shown(self, flow: Flow[Any], kickoff: Callable[[], Any]) -> Any:
        try:
            return kickoff()
        finally:
            self.take_after(flow)

    def _returned(self, result: Any) -> Any:
        return result.as_returned() if isinstance(result, Pending) else result
