"""`DBOSCrew`: a crewAI crew whose kickoffs survive the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from crewai import Crew
from crewai.crews.crew_output import CrewOutput
from crewai.types.usage_metrics import UsageMetrics
from dbos import DBOSClient
from pydantic import ConfigDict, PrivateAttr, SecretStr

from crewai_dbos import doctor
from crewai_dbos._classes import without_fields
from crewai_dbos._crews import batch
from crewai_dbos._crews.options import AgentStepConfigs, chosen_options
from crewai_dbos._crews.perform_crew import KIND
from crewai_dbos._crews.work_orders import CrewWorkOrder
from crewai_dbos._events.event import Events, as_events
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._people.policy import People
from crewai_dbos._people.spending import check_prices
from crewai_dbos._runs import body, starting, workflows
from crewai_dbos._runs.definition import CrewDefinition, build_crew
from crewai_dbos._runs.handle import RunHandle
from crewai_dbos._runs.registry import crews
from crewai_dbos._secrets.given import as_given
from crewai_dbos._stored.budget import Budget, as_budget
from crewai_dbos._stored.redaction import Redact, as_redact
from crewai_dbos._threads import on_a_thread
from crewai_dbos.errors import DefinitionError


@without_fields
class DBOSCrew(Crew):
    """Wraps a crewAI crew: each of its kickoffs is a DBOS workflow that a fresh process finishes.

    With DBOS launched, a kickoff opens a workflow, or joins the one that is open. Every LLM
    request, tool call, callback, guardrail and memory access of the crew is recorded in it. Without
    DBOS a kickoff is that of `orig_crew`.

    Args:
        crew_name: Stored with every run. Unique in the process; keep it over releases.
        orig_crew: The crew, a callable without arguments that builds one, or a ``@CrewBase`` class.
            Each run works on a copy.
        llm_step_config: Retries of LLM requests; see `StepConfig`. By default five attempts
            after rate limits, timeouts, lost connections and 5xx.
        function_calling_llm_step_config: The same for ``function_calling_llm``.
        tool_step_config: What to do with tools that have no DBOS decorator. A `StepConfig` (the
            default) records all of them. A mapping of tool names gives some of them another one;
            None opts a tool out, or all of them: it is called again on recovery.
        agent_step_configs: The same three for single agents, by role, where they differ.
        secrets: Texts, as strings or `SecretStr`, that must not be stored in errors and attributes
            or logged. Those of the environment, LLMs, tools, embedders and MCP servers are known
            without that.
        redact: A function that is given every text before it is stored (inputs, answers, arguments,
            results, states, errors) and returns what is stored in its place. The run itself goes on
            with that too, the first time as well.
        people: Which tool calls a person has to approve, and how people are asked; see `People`.
        events: Whether its runs leave events, which `Control.events` reads: True, or "tokens" for
            the texts of answers too, as they are streamed.
        budget: How much each run may cost; see `Budget`.

    Raises:
        DefinitionError: The name is empty or taken, or an option can't mean anything.

    Example::

        from crewai import Agent, Crew, Task
        from crewai_dbos import DBOSCrew

        writer = Agent(role="Writer", goal="Write", backstory="Brief.", llm="gpt-4o-mini")
        report = Task(
            description="Write about {topic}.", expected_output="A paragraph.", agent=writer
        )
        writers = DBOSCrew(crew_name="writers", orig_crew=Crew(agents=[writer], tasks=[report]))
        print(writers.kickoff({"topic": "otters"}).raw)
    """

    # It becomes a view of a crew that crewAI has built: nothing is validated with this class.
    model_config = ConfigDict(defer_build=True)

    _definition: CrewDefinition = PrivateAttr()

    def __init__(
        self,
        *,
        crew_name: str,
        orig_crew: Crew | Callable[[], Any],
        llm_step_config: StepConfig | None = None,
        function_calling_llm_step_config: StepConfig | None = None,
        tool_step_config: ToolStepConfig = StepConfig(),  # noqa: B008
        agent_step_configs: Mapping[str, AgentStepConfigs] | None = None,
        secrets: Iterable[str | SecretStr] = (),
        redact: Redact | None = None,
        people: People | None = None,
        events: Events = False,
        budget: Budget | None = None,
    ) -> None:
        with hooks_of_crews.defined():
            template = build_crew(orig_crew)
        if isinstance(template, DBOSCrew):
            raise DefinitionError(f"{template.crew_name!r} is a DBOSCrew already: use it as it is")
        starting.show_as(self, template)
        options, of_role = chosen_options(
            template,
            AgentOptions(
                llm_step_config=llm_step_config,
                function_calling_llm_step_config=function_calling_llm_step_config,
                tool_step_config=tool_step_config,
            ),
            agent_step_configs or {},
            people,
        )
        check_prices(as_budget(budget), (agent.llm for agent in template.agents))
        self._definition = CrewDefinition(
            name=crew_name,
            source=orig_crew,
            options=options,
            of_role=of_role,
            owner=self,
            secrets=as_given(secrets),
            redact=as_redact(redact),
            people=people,
            events=as_events(events, redact),
            budget=as_budget(budget),
        )
        crews.add(self._definition)
        doctor.warn(self)

    @property
    def crew_name(self) -> str:
        """The name that is stored with this crew's runs."""
        return self._definition.name

    @property
    def orig_crew(self) -> Crew:
        """The crew that was wrapped, or a new one if a callable or a class was."""
        with hooks_of_crews.defined():
            return self._definition.build()

    def copy(self) -> Crew:  # type: ignore[override]
        """An ordinary crew, as `Crew.train` and `Crew.test` want one to work on."""
        return self.orig_crew.copy()

    # Runs --------------------------------------------------------------------

    def kickoff(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
    ) -> Any:
        """Run the crew as a DBOS workflow. See `Crew.kickoff`.

        Args:
            inputs: What the crew's texts are filled with. Stored, so plain data.
            input_files: Files by name. Stored, so of a kind that has a JSON form.

        Returns:
            The `CrewOutput`; with ``stream=True`` a `CrewStreamingOutput`, which carries the run
            out while it is iterated. What is answered from the record has no chunks.

        Raises:
            UnstorableInputError: The inputs, or an output model, could not be rebuilt by another
                process.
            RunConflictError: The workflow id belongs to a run of something else.

        Example::

            from dbos import SetWorkflowID

            with SetWorkflowID("report-otters"):
                print(crew.kickoff({"topic": "otters"}).raw)
        """
        order = self._order(inputs, input_files, from_checkpoint)
        if not starting.prepared_to_record(self._described(), self._definition):
            return self._ordinary(lambda crew: crew.kickoff(**vars(order)))
        if self.stream:
            # crewAI's own streaming, which comes back here without it.
            return Crew.kickoff(self._view(), **vars(order))
        return self._published(starting.carry_out(KIND, self._definition, order, self))

    async def kickoff_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
    ) -> Any:
        """As `kickoff`, on a thread, as crewAI does it.

        Example::

            print((await crew.kickoff_async({"topic": "otters"})).raw)
        """
        if not self.stream:
            with body.sparing_the_loop_of_dbos():
                return await on_a_thread(lambda: self.kickoff(inputs, input_files, from_checkpoint))
        order = self._order(inputs, input_files, from_checkpoint)
        if not starting.prepared_to_record(self._described(), self._definition):
            return await self._aordinary(lambda crew: crew.kickoff_async(**vars(order)))
        return await Crew.kickoff_async(self._view(), **vars(order))

    async def akickoff(
        self,
        inputs: Mapping[str, Any] | None = None,
        input_files: Mapping[str, Any] | None = None,
        from_checkpoint: Any = None,
    ) -> Any:
        """As `kickoff`, through crewAI's async methods.

        Example::

            print((await crew.akickoff({"topic": "otters"})).raw)
        """
        order = self._order(inputs, input_files, from_checkpoint)
        if not starting.prepared_to_record(self._described(), self._definition):
            return await self._aordinary(lambda crew: crew.akickoff(**vars(order)))
        if self.stream:
            return await Crew.akickoff(self._view(), **vars(order))
        return self._published(await starting.acarry_out(KIND, self._definition, order, self))

    def kickoff_for_each(
        self,
        inputs: Sequence[Mapping[str, Any]],
        input_files: Mapping[str, Any] | None = None,
        *,
        return_exceptions: bool = False,
        concurrency: int | None = 10,
        limiter: batch.RateLimit | None = None,
    ) -> list[Any]:
        """Run the crew for each of `inputs`, each a run of its own on a DBOS queue.

        Every item is carried out, whatever becomes of the others, by this process or by any other
        that has the crew defined. The batch is a DBOS workflow too: ``SetWorkflowID`` gives it an
        id, and the items are ``id/1``, ``id/2``, ... Called again under the same id, the items that
        are done are not run again; those that failed go on from the call that failed. What tasks
        beside it did after that is done again with it.

        Args:
            inputs: One mapping for each item, as of `kickoff`.
            input_files: Files for all of them.
            return_exceptions: Return the error of a failed item in its place.
            concurrency: How many items run at the same time, over all processes; None for any
                number.
            limiter: How many may begin in a period: ``{"limit": 50, "period": 60.0}``, in seconds.

        Returns:
            The `CrewOutput` of each item, in the order of `inputs`.

        Raises:
            DefinitionError: `concurrency` or `limiter` lets nothing through.
            BatchError: Items failed. It has the outputs of the others, and the errors, by position.
            UnstorableInputError: As of `kickoff`, of any item, before one was begun.
            RunConflictError: The workflow id belongs to a batch of other inputs.

        Example::

            from crewai_dbos import BatchError
            from dbos import SetWorkflowID

            try:
                with SetWorkflowID("monday"):
                    outputs = crew.kickoff_for_each([{"topic": "otters"}, {"topic": "badgers"}])
            except BatchError as failed:
                print("to do again:", list(failed.errors))
        """
        inputs, limits = list(inputs), batch.limits(concurrency, limiter)
        orders = [self._order(each, input_files, None) for each in inputs]
        if not starting.prepared_to_record(self._described(), self._definition):
            plain = [dict(each) for each in inputs]
            files = None if input_files is None else dict(input_files)
            done: list[Any] = self._ordinary(lambda crew: crew.kickoff_for_each(plain, files))
            return done
        instead = "kickoff_for_each_async or akickoff_for_each"
        starting.check_loop(KIND, self._definition, joins=True, instead=instead)
        outputs = batch.run(self._definition, orders, limits, return_exceptions=return_exceptions)
        self.__dict__["usage_metrics"] = batch.usage(outputs)
        return outputs

    async def kickoff_for_each_async(
        self,
        inputs: Sequence[Mapping[str, Any]],
        input_files: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Any]:
        """As `kickoff_for_each`, for async code.

        Example::

            outputs = await crew.kickoff_for_each_async([{"topic": "otters"}], concurrency=5)
        """
        with body.sparing_the_loop_of_dbos():
            return await on_a_thread(lambda: self.kickoff_for_each(inputs, input_files, **options))

    async def akickoff_for_each(
        self,
        inputs: Sequence[Mapping[str, Any]],
        input_files: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Any]:
        """As `kickoff_for_each`, for async code.

        Example::

            outputs = await crew.akickoff_for_each([{"topic": "otters"}], concurrency=5)
        """
        with body.sparing_the_loop_of_dbos():
            return await on_a_thread(lambda: self.kickoff_for_each(inputs, input_files, **options))

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
            The run; ``get_result()`` waits for its `CrewOutput`.

        Raises:
            UnstorableInputError: As of `kickoff`.
            RunConflictError: The workflow id belongs to a run of something else.
            NotLaunchedError: DBOS is not launched.
            QueueNotFoundError: There is no such queue.

        Example::

            from dbos import DBOS, SetWorkflowID

            DBOS.register_queue("reports", concurrency=2)
            with SetWorkflowID("report-badgers"):
                run = crew.start({"topic": "badgers"}, queue="reports")
            print(run.get_result().raw)
        """
        order = CrewWorkOrder(inputs, input_files)
        return starting.start(
            self._described(),
            workflows.run_crew,
            lambda: order.stored(self._definition),
            queue,
        )

    def retrieve(self, run_id: str, *, client: DBOSClient | None = None) -> RunHandle:
        """The run with this workflow id, in this process or another, finished or not.

        Args:
            run_id: Its workflow id.
            client: Of the database that it is in. Without one the launched DBOS instance is asked,
                which recovers runs at its launch: a process that is only to look takes a client.

        Example::

            run = crew.retrieve(crew.start({"topic": "otters"}).workflow_id)
            print(run.get_result().raw)
        """
        return RunHandle(run_id, client=client)

    def calculate_usage_metrics(self) -> UsageMetrics:
        """The tokens of the last kickoff, as `usage_metrics` has them.

        crewAI adds up what the LLMs of the agents have counted. Those of a run are copies.

        Example::

            crew.kickoff({"topic": "otters"})
            assert crew.calculate_usage_metrics().total_tokens > 0
        """
        found = self.usage_metrics
        return super().calculate_usage_metrics() if found is None else found

    def replay(self, task_id: str, inputs: dict[str, Any] | None = None) -> NoReturn:
        """Not of a durable crew, whose runs can be gone back to any place of: `Control.fork`.

        Raises:
            NotImplementedError: Always; it says what to use.
        """
        raise NotImplementedError(
            "A DBOSCrew keeps every run: crewai_dbos.control.Control(url).fork(run_id, "
            "at='task:2') makes a new run that goes on from any place of it. Crew.replay knows "
            "only the last kickoff of this machine."
        )

    def _order(
        self,
        inputs: Mapping[str, Any] | None,
        input_files: Mapping[str, Any] | None,
        from_checkpoint: Any,
    ) -> CrewWorkOrder:
        if from_checkpoint is not None:
            raise DefinitionError(
                "A DBOSCrew resumes its runs by itself. To go on from a checkpoint of crewAI, kick "
                "off the ordinary crew: orig_crew.kickoff(from_checkpoint=...)."
            )
        starting.check_inputs(inputs)
        return CrewWorkOrder(inputs, input_files)

    def _view(self) -> DBOSCrew:
        """This crew for one stream, which is iterated when its workflow id is not set any more."""
        view = DBOSCrew.__new__(DBOSCrew)
        starting.show_as(view, self)
        starting.keep_assigned_id(view)
        return view

    def _described(self) -> str:
        return f"DBOSCrew {self.crew_name!r}"

    def _ordinary(self, kickoff: Callable[[Crew], Any]) -> Any:
        crew = self.orig_crew
        try:
            return kickoff(crew)
        finally:
            self.__dict__["usage_metrics"] = crew.usage_metrics

    async def _aordinary(self, kickoff: Callable[[Crew], Awaitable[Any]]) -> Any:
        crew = self.orig_crew
        try:
            return await kickoff(crew)
        finally:
            self.__dict__["usage_metrics"] = crew.usage_metrics

    def _published(self, output: Any) -> Any:
        """Show on this crew what crewAI shows on one after a kickoff. Returns `output`."""
        if isinstance(output, CrewOutput):
            usage = output.token_usage.model_copy()
            # A stream is that of a view.
            for crew in (self, self._definition.owner):
                crew.__dict__.update(usage_metrics=usage, token_usage=usage)
        return output
