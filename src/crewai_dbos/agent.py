"""`DBOSAgent`: a crewAI agent whose runs survive the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crewai import Agent, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool
from dbos import DBOSClient
from pydantic import ConfigDict, PrivateAttr, SecretStr

from crewai_dbos import _patches, doctor
from crewai_dbos._agents import crew_settings
from crewai_dbos._agents.executor import DBOSAgentExecutor
from crewai_dbos._agents.perform_agent import KIND
from crewai_dbos._agents.work_orders import AgentWorkOrder, kickoff_order
from crewai_dbos._classes import without_fields
from crewai_dbos._crewai_seam.llm import is_llm, share_usage
from crewai_dbos._events.event import Events, as_events
from crewai_dbos._journal.config import StepConfig, ToolStepConfig
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._objects.conversion import recording
from crewai_dbos._objects.llm import durable_llm
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.tools import check_tools
from crewai_dbos._people.policy import People
from crewai_dbos._people.spending import check_prices
from crewai_dbos._runs import starting
from crewai_dbos._runs.definition import AgentDefinition, build_agent
from crewai_dbos._runs.handle import RunHandle
from crewai_dbos._runs.registry import agents
from crewai_dbos._secrets.given import as_given
from crewai_dbos._stored import names
from crewai_dbos._stored.budget import Budget, as_budget
from crewai_dbos._stored.redaction import Redact, as_redact
from crewai_dbos._threads import in_event_loop


@without_fields
class DBOSAgent(Agent):
    """Wraps a crewAI agent: each of its runs is a DBOS workflow that a fresh process finishes.

    Use it wherever an `Agent` goes. With DBOS launched, `execute_task` and `kickoff` open a
    workflow, or join the one that is open; LLM requests and tools are its steps. Without DBOS it
    behaves as `orig_agent`.

    Args:
        agent_name: Stored with every run. Unique in the process; keep it over releases.
        orig_agent: The agent, or a callable that builds one. Each run works on a copy.
        llm_step_config: Retries of LLM requests; see `StepConfig`. By default five attempts
            after rate limits, timeouts, lost connections and 5xx.
        function_calling_llm_step_config: The same for ``function_calling_llm``.
        tool_step_config: What to do with tools that have no DBOS decorator. None (the default)
            does not record them. A `StepConfig` records all of them, a mapping of tool names
            those it gives a `StepConfig`.
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

        from crewai import Agent
        from crewai_dbos import DBOSAgent
        from dbos import SetWorkflowID

        support = DBOSAgent(
            agent_name="support",
            orig_agent=Agent(role="Support", goal="Answer", backstory="Kind.", llm="gpt-4o-mini"),
        )
        # Asked again under this id, after a crash or not, it goes on where it was.
        with SetWorkflowID("ticket-7"):
            print(support.kickoff("My parcel is late.").raw)
    """

    # It becomes a view of an agent that crewAI has built: nothing is validated with this class.
    model_config = ConfigDict(defer_build=True)

    _definition: AgentDefinition = PrivateAttr()
    _defined_as: dict[str, Any] = PrivateAttr()

    def __init__(
        self,
        *,
        agent_name: str,
        orig_agent: Agent | Callable[[], Agent],
        llm_step_config: StepConfig | None = None,
        function_calling_llm_step_config: StepConfig | None = None,
        tool_step_config: ToolStepConfig = None,
        secrets: Iterable[str | SecretStr] = (),
        redact: Redact | None = None,
        people: People | None = None,
        events: Events = False,
        budget: Budget | None = None,
    ) -> None:
        options = AgentOptions(
            llm_step_config=llm_step_config,
            function_calling_llm_step_config=function_calling_llm_step_config,
            tool_step_config=tool_step_config,
        )
        with hooks_of_crews.defined():
            template = build_agent(orig_agent)
        if isinstance(template, DBOSAgent):
            template = template.orig_agent
            orig_agent = template
        check_tools([template], tool_step_config, (), people)
        check_prices(as_budget(budget), [template.llm])
        starting.show_as(self, template)
        self.executor_class = DBOSAgentExecutor
        self._share_llms(llm_step_config, function_calling_llm_step_config)
        self._defined_as = crew_settings.snapshot(self)
        self._definition = AgentDefinition(
            name=agent_name,
            source=orig_agent,
            options=options,
            owner=self,
            secrets=as_given(secrets),
            redact=as_redact(redact),
            people=people,
            events=as_events(events, redact),
            budget=as_budget(budget),
        )
        _patches.apply(_patches.AGENT)
        agents.add(self._definition)
        doctor.warn(self)

    def __setattr__(self, name: str, value: Any) -> None:
        given = crew_settings.here(self) if name in crew_settings.FIELDS else None
        if given is None:
            super().__setattr__(name, value)
        else:
            given[name] = value

    def __getattribute__(self, name: str) -> Any:
        if name in crew_settings.FIELDS:
            given = crew_settings.here(self)
            # Read where they lie: pydantic's way would warn of deprecated fields in our name.
            for values in (given or {}, super().__getattribute__("__dict__")):
                if name in values:
                    return values[name]
        return super().__getattribute__(name)

    def get_output_converter(self, **fields: Any) -> Any:  # type: ignore[override]
        """As `Agent.get_output_converter`; what it asks an LLM is recorded."""
        converter = super().get_output_converter(**fields)
        converter.__class__ = recording(type(converter))
        return converter

    def _share_llms(self, config: StepConfig | None, calling_config: StepConfig | None) -> None:
        """Record also what a crew asks the agent's LLMs, to convert an output or to check it."""
        for field, role, chosen in (
            ("llm", names.LLM, config),
            ("function_calling_llm", names.FUNCTION_CALLING_LLM, calling_config),
        ):
            llm = self.__dict__.get(field)
            if is_llm(llm):
                self.__dict__[field] = self._durable(llm, role, chosen)

    @staticmethod
    def _durable(llm: BaseLLM, role: str, config: StepConfig | None) -> BaseLLM:
        # Several tasks of a crew may ask at the same time, on threads.
        return share_usage(durable_llm(llm, role=role, config=config, by_content=True), llm)

    @property
    def agent_name(self) -> str:
        """The name that is stored with this agent's runs."""
        return self._definition.name

    @property
    def definition(self) -> AgentDefinition:
        """What this agent is made of."""
        return self._definition

    @property
    def orig_agent(self) -> Agent:
        """The agent that was wrapped, or a new one if a callable was."""
        with hooks_of_crews.defined():
            return self._definition.build()

    def copy(self) -> DBOSAgent:  # type: ignore[override]
        """Another view of the same definition. crewAI copies agents for every item of a batch."""
        view = DBOSAgent.__new__(DBOSAgent)
        starting.show_as(view, self)
        return view

    # Runs --------------------------------------------------------------------

    def execute_task(
        self, task: Task, context: str | None = None, tools: list[BaseTool] | None = None
    ) -> Any:
        """Run `task` as a DBOS workflow. See `Agent.execute_task`.

        Args:
            task: The task; its texts, options and output models are stored.
            context: Text that the task is given with.
            tools: Tools for this task only; they must be among the agent's.

        Returns:
            The agent's answer: text, or the task's response model.

        Raises:
            UnstorableInputError: The task needs something that another process could not rebuild.
            RunConflictError: The workflow id belongs to a run of something else.

        Example::

            from crewai import Task

            task = Task(description="Answer ticket 7.", expected_output="A letter.")
            answer = agent.execute_task(task, context="It is a complaint.")
        """
        order = AgentWorkOrder(
            "execute_task", task=task, tools=tools, arguments={"context": context}
        )
        ordinary = super().execute_task
        return self._carry_out(order, lambda: ordinary(task, context, tools))

    async def aexecute_task(
        self, task: Task, context: str | None = None, tools: list[BaseTool] | None = None
    ) -> Any:
        """As `execute_task`, for async code.

        Example::

            from crewai import Task

            task = Task(description="Answer ticket 7.", expected_output="A letter.")
            answer = await agent.aexecute_task(task)
        """
        order = AgentWorkOrder(
            "execute_task", task=task, tools=tools, arguments={"context": context}
        )
        ordinary = super().aexecute_task
        return await self._acarry_out(order, lambda: ordinary(task, context, tools))

    def kickoff(self, messages: Any, response_format: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Answer `messages` as a DBOS workflow. See `Agent.kickoff`.

        Args:
            messages: A question, or a list of messages with ``role`` and ``content``.
            response_format: A pydantic model for the answer.

        Returns:
            A `LiteAgentOutput`; inside an event loop, a coroutine of one, as crewAI does.

        Example::

            from dbos import SetWorkflowID

            with SetWorkflowID("question-7"):
                print(agent.kickoff("Where is my parcel?").raw)
        """
        if in_event_loop():
            return self.kickoff_async(messages, response_format, *args, **kwargs)
        ordinary = super().kickoff
        return self._carry_out(
            kickoff_order(messages, response_format, args, kwargs),
            lambda: ordinary(messages, response_format, *args, **kwargs),
        )

    async def kickoff_async(
        self, messages: Any, response_format: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `kickoff`, for async code.

        Example::

            print((await agent.kickoff_async("Where is my parcel?")).raw)
        """
        ordinary = super().kickoff_async
        return await self._acarry_out(
            kickoff_order(messages, response_format, args, kwargs),
            lambda: ordinary(messages, response_format, *args, **kwargs),
        )

    async def akickoff(
        self, messages: Any, response_format: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `kickoff_async`.

        Example::

            print((await agent.akickoff("Where is my parcel?")).raw)
        """
        return await self.kickoff_async(messages, response_format, *args, **kwargs)

    def invoke_executor(self, task: Task | None, inputs: dict[str, Any]) -> Any:
        """Run the agent loop of `task` on a finished prompt; what `DBOSAgentExecutor` opens."""
        order = AgentWorkOrder("invoke", task=task, arguments={"inputs": inputs})
        return self._carry_out(order, lambda: None)

    async def ainvoke_executor(self, task: Task | None, inputs: dict[str, Any]) -> Any:
        """As `invoke_executor`, for async code."""
        order = AgentWorkOrder("invoke", task=task, arguments={"inputs": inputs})
        return await self._acarry_out(order, lambda: None)

    def retrieve(self, run_id: str, *, client: DBOSClient | None = None) -> RunHandle:
        """The run with this workflow id, in this process or another, finished or not.

        Args:
            run_id: Its workflow id.
            client: Of the database that it is in. Without one the launched DBOS instance is asked,
                which recovers runs at its launch: a process that is only to look takes a client.

        Example::

            from dbos import SetWorkflowID

            with SetWorkflowID("question-8"):
                agent.kickoff("Where is my parcel?")
            # In any process that has the agent defined.
            print(agent.retrieve("question-8").get_result().raw)
        """
        return RunHandle(run_id, client=client)

    def _carry_out(self, order: AgentWorkOrder, ordinary: Callable[[], Any]) -> Any:
        if not starting.prepared_to_record(f"DBOSAgent {self.agent_name!r}", self._definition):
            return ordinary()
        order.given = crew_settings.since(self._defined_as, self)
        return starting.carry_out(KIND, self._definition, order, self, order.models())

    async def _acarry_out(self, order: AgentWorkOrder, ordinary: Callable[[], Any]) -> Any:
        if not starting.prepared_to_record(f"DBOSAgent {self.agent_name!r}", self._definition):
            return await ordinary()
        order.given = crew_settings.since(self._defined_as, self)
        return await starting.acarry_out(KIND, self._definition, order, self, order.models())
