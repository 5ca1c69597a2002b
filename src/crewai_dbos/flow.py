"""`DBOSFlow`: a crewAI flow whose kickoffs survive the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from crewai.flow.flow import Flow
from crewai.types.streaming import StreamSession
from dbos import DBOSClient, SetWorkflowID
from pydantic import ConfigDict, PrivateAttr, SecretStr

from crewai_dbos import doctor
from crewai_dbos._classes import without_fields
from crewai_dbos._dbos_seam.context import assigned_workflow_id
from crewai_dbos._events.event import Events, as_events
from crewai_dbos._flows import sessions
from crewai_dbos._flows.perform_flow import KIND
from crewai_dbos._flows.state.changes import classes
from crewai_dbos._flows.work_orders import FlowWorkOrder
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._objects.options import AgentOptions, recording_others
from crewai_dbos._people.policy import People
from crewai_dbos._runs import starting, workflows
from crewai_dbos._runs.definition import FlowDefinition, build_flow
from crewai_dbos._runs.handle import RunHandle
from crewai_dbos._runs.registry import flows
from crewai_dbos._secrets.given import as_given
from crewai_dbos._stored import budget as budgets
from crewai_dbos._stored.budget import Budget, as_budget
from crewai_dbos._stored.redaction import Redact, as_redact
from crewai_dbos._threads import off_the_loop
from crewai_dbos.errors import DefinitionError


@without_fields
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
        secrets: Texts, as strings or `SecretStr`, that must not be stored in errors and attributes
            or logged. Those of the environment, LLMs, tools, embedders and MCP servers are known
            without that, also where a method makes them.
        redact: A function that is given every text before it is stored (inputs, answers, arguments,
            results, states, errors) and returns what is stored in its place. The run itself goes on
            with that too, the first time as well.
        people: Which tool calls a person has to approve, and how people are asked; see `People`.
        events: Whether its runs leave events, which `Control.events` reads: True, or "tokens" for
            the texts of answers too, as they are streamed.
        budget: How much each run may cost; see `Budget`.

    Raises:
        DefinitionError: The name is empty or taken, or `orig_flow` builds no flow.

    Example::

        from crewai.flow.flow import Flow, listen, start
        from crewai_dbos import DBOSAgent, DBOSFlow, step

        class Letters(Flow):
            @start()
            def write(self) -> str:
                return agent.kickoff(f"Answer {self.state['ticket']}").raw

            @listen(write)
            def send(self, letter: str) -> str:
                return step(print, letter) or "sent"

        letters = DBOSFlow(flow_name="letters", orig_flow=Letters)
        print(letters.kickoff({"ticket": "ticket 7"}))
    """

    # It becomes a view of a flow that crewAI has built: nothing is validated with this class.
    model_config = ConfigDict(defer_build=True)

    _durable: FlowDefinition = PrivateAttr()
    _talking: Any = PrivateAttr(default=None)
    _shows: str | None = PrivateAttr(default=None)

    def __init__(
        self,
        *,
        flow_name: str,
        orig_flow: Callable[[], Any],
        llm_step_config: StepConfig | None = None,
        function_calling_llm_step_config: StepConfig | None = None,
        tool_step_config: ToolStepConfig = StepConfig(),  # noqa: B008
        secrets: Iterable[str | SecretStr] = (),
        redact: Redact | None = None,
        people: People | None = None,
        events: Events = False,
        budget: Budget | None = None,
    ) -> None:
        if isinstance(orig_flow, DBOSFlow):
            raise DefinitionError(f"{orig_flow.flow_name!r} is a DBOSFlow already: use it as it is")
        with hooks_of_crews.defined():
            template = build_flow(orig_flow)
        options = AgentOptions(
            llm_step_config=llm_step_config,
            function_calling_llm_step_config=function_calling_llm_step_config,
            tool_step_config=tool_step_config,
        )
        definition = FlowDefinition(
            flow_name,
            orig_flow,
            recording_others(options),
            owner=self,
            secrets=as_given(secrets),
            redact=as_redact(redact),
            people=people,
            events=as_events(events, redact),
            budget=as_budget(budget),
        )
        self._become(template, definition)
        flows.add(definition)
        doctor.warn(self)

    def show_as(self, flow: Flow[Any], run_id: str | None = None) -> None:
        """Show the state, the outputs and the usage of `flow`, whose kickoff has ended.

        Args:
            run_id: The workflow that it was the run of, if it was one.
        """
        stream = self.stream
        self._become(flow, self._durable, run_id)
        self.stream = stream

    def _become(
        self, other: Flow[Any], definition: FlowDefinition, run_id: str | None = None
    ) -> None:
        """Become a view of `other`: the same fields, without building them again."""
        talking = (self.__dict__ and self._talking) or None
        starting.show_as(self, other, _durable=definition, _talking=talking, _shows=run_id)

    @property
    def flow_name(self) -> str:
        """The name that is stored with this flow's runs."""
        return self._durable.name

    @property
    def orig_flow(self) -> Flow[Any]:
        """A new flow of the kind that was wrapped."""
        with hooks_of_crews.defined():
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

        Example::

            from dbos import SetWorkflowID

            with SetWorkflowID("letter-7"):
                print(flow.kickoff({"ticket": "ticket 7"}))
        """
        order = self._order(inputs, input_files, from_checkpoint, restore_from_state_id)
        if not starting.prepared_to_record(self._described(), self._durable):
            return self._shown(flow := self.orig_flow, lambda: flow.kickoff(**order.arguments()))
        if self.stream:
            # crewAI's own streaming, which comes back here without it.
            return Flow.stream_events(self._view(), **order.arguments())
        return starting.carry_out(KIND, self._durable, order, self, classes(self))

    async def kickoff_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
        restore_from_state_id: str | None = None,
    ) -> Any:
        """As `kickoff`, for async code.

        Example::

            print(await flow.kickoff_async({"ticket": "ticket 7"}))
        """
        order = self._order(inputs, input_files, from_checkpoint, restore_from_state_id)
        if not starting.prepared_to_record(self._described(), self._durable):
            flow = self.orig_flow
            try:
                return await flow.kickoff_async(**order.arguments())
            finally:
                self.show_as(flow)
        if self.stream:
            return Flow.astream(self._view(), **order.arguments())
        return await starting.acarry_out(KIND, self._durable, order, self, classes(self))

    async def akickoff(self, *args: Any, **kwargs: Any) -> Any:
        """As `kickoff_async`.

        Example::

            print(await flow.akickoff({"ticket": "ticket 7"}))
        """
        return await self.kickoff_async(*args, **kwargs)

    @classmethod
    def from_pending(cls, flow_id: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Not of a `DBOSFlow`.

        Raises:
            DefinitionError: Says what to call.
        """
        raise DefinitionError(
            "A kickoff that returned HumanFeedbackPending is resumed by its own class: "
            f"orig_flow.from_pending({flow_id!r}).resume(feedback). That is not recorded."
        )

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
        What the application does to ``state`` between two turns in one process is kept. In a
        workflow of yours a turn goes on from the turns before it in that workflow.

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

        Example::

            for message in ("Good morning.", "Where is my parcel?"):
                print(chat.handle_turn(message, session_id="ann"))
        """
        turn = sessions.arguments(
            self, "handle_turn", message, session_id, intents, intent_llm, kickoff_kwargs
        )
        return self._take_turn(turn, assigned_workflow_id() or starting.kept_id(self))

    def stream_turn(
        self,
        message: str,
        *,
        session_id: str | None = None,
        intents: Sequence[str] | None = None,
        intent_llm: Any = None,
        **kickoff_kwargs: Any,
    ) -> StreamSession[Any]:
        """As `handle_turn`, as a stream, which carries the turn out while it is iterated.

        What is answered from the record has no chunks. See `Flow.stream_turn`.

        Example::

            stream = chat.stream_turn("Good morning.", session_id="ann")
            print("".join(frame.content for frame in stream), stream.result)
        """
        turn = sessions.arguments(
            self, "stream_turn", message, session_id, intents, intent_llm, kickoff_kwargs
        )
        # It is iterated when its workflow id is not set any more.
        run_id = assigned_workflow_id() or starting.kept_id(self)
        given = budgets.given()

        def take() -> Any:
            with budgets.giving(given):
                return self._take_turn({**turn, sessions.STREAM: True}, run_id)

        return sessions.stream_of(take)

    def _take_turn(self, turn: dict[str, Any], run_id: str | None) -> Any:
        """Take a turn, under the workflow id `run_id` if there is one."""
        if not starting.prepared_to_record(self._described(), self._durable):
            flow = self._talking or self.orig_flow
            self._talking = flow
            return self._shown(flow, lambda: sessions.take(flow, turn))
        if run_scope.in_workflow():
            order = FlowWorkOrder(turn=turn)
            return starting.carry_out(KIND, self._durable, order, self, classes(self))
        following = sessions.next_turn(self.flow_name, turn["session_id"], classes(self))
        state = sessions.live_state(self, self._durable, self._shows, following) or following.state
        stored = FlowWorkOrder(turn=turn, state=state).stored(self._durable)
        with SetWorkflowID(run_id or following.run_id):
            return off_the_loop(lambda: starting.run(stored, workflows.run_flow, classes(self)))

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
            NotLaunchedError: DBOS is not launched.
            QueueNotFoundError: There is no such queue.

        Example::

            run = flow.start({"ticket": "ticket 7"})
            print(run.workflow_id, run.get_result())
        """
        order = FlowWorkOrder(inputs, input_files)
        return starting.start(
            self._described(),
            workflows.run_flow,
            lambda: order.stored(self._durable),
            queue,
            classes(self),
        )

    def retrieve(self, run_id: str, *, client: DBOSClient | None = None) -> RunHandle:
        """The run with this workflow id, in this process or another, finished or not.

        Args:
            run_id: Its workflow id.
            client: Of the database that it is in. Without one the launched DBOS instance is asked,
                which recovers runs at its launch: a process that is only to look takes a client.

        Example::

            run = flow.retrieve(flow.start({"ticket": "ticket 7"}).workflow_id)
            print(run.get_result())
        """
        return RunHandle(run_id, classes(self), client)

    def _order(
        self, inputs: Any, input_files: Any, from_checkpoint: Any, restore_from: str | None
    ) -> FlowWorkOrder:
        if from_checkpoint is not None:
            raise DefinitionError(
                "A DBOSFlow resumes its runs by itself. To go on from a checkpoint of crewAI, kick "
                "off the ordinary flow: orig_flow.kickoff(from_checkpoint=...)."
            )
        starting.check_inputs(inputs)
        return FlowWorkOrder(inputs, input_files, restore_from)

    def _view(self) -> DBOSFlow:
        """This flow for one stream, which is iterated when its workflow id is not set any more."""
        view = DBOSFlow.__new__(DBOSFlow)
        view._become(self, self._durable)
        starting.keep_assigned_id(view)
        return view

    def _described(self) -> str:
        return f"DBOSFlow {self.flow_name!r}"

    def _shown(self, flow: Flow[Any], kickoff: Callable[[], Any]) -> Any:
        try:
            return kickoff()
        finally:
            self.show_as(flow)
