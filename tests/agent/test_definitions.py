"""What DBOSAgent takes, and what it refuses before anything ran."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.flow.flow import Flow, start
from crewai.state.checkpoint_config import CheckpointConfig
from crewai.tools import tool
from dbos import SetWorkflowID
from pydantic import BaseModel, SerializeAsAny, TypeAdapter, ValidationError, field_serializer
from pydantic_core import to_jsonable_python

from agent.helpers import clerk, echo, job
from crewai_dbos import (
    DBOSAgent,
    DBOSCrew,
    DBOSFlow,
    DefinitionError,
    RunConflictError,
    StepConfig,
    UnstorableInputError,
)
from crewai_dbos._classes import overridden
from crewai_dbos.testing import ModelServer
from support.names import unique
from support.python import python


def test_a_name_is_needed_and_unique() -> None:
    agent = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini")
    with pytest.raises(DefinitionError, match="non-empty"):
        DBOSAgent(agent_name=" ", orig_agent=agent)
    name = unique("twice")
    DBOSAgent(agent_name=name, orig_agent=agent)
    with pytest.raises(DefinitionError, match="already"):
        DBOSAgent(agent_name=name, orig_agent=agent)
    with pytest.raises(DefinitionError, match="callable that returns one"):
        DBOSAgent(agent_name=unique("odd"), orig_agent=lambda: "no agent")  # type: ignore[arg-type,return-value]


def test_an_agent_can_be_built_anew_for_each_run() -> None:
    built: list[Agent] = []

    with ModelServer(echo) as server:

        def build() -> Agent:
            built.append(clerk(server))
            return built[-1]

        agent = DBOSAgent(agent_name=unique("factory"), orig_agent=build)
        count = len(built)
        agent.kickoff("One.")
        agent.kickoff("Two.")
        assert len(built) == count + 2


def test_a_durable_agent_is_a_field_of_a_model_as_any_other() -> None:
    """pydantic builds what it validates such a field with when it is asked for the first time."""

    class Team(BaseModel):
        agent: DBOSAgent
        crew: DBOSCrew

    agent = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini")
    task = Task(description="d", expected_output="e", agent=agent)
    durable = DBOSAgent(agent_name=unique("field"), orig_agent=agent)
    crew = DBOSCrew(crew_name=unique("field"), orig_crew=Crew(agents=[agent], tasks=[task]))
    team = Team(agent=durable, crew=crew)
    assert team.agent is durable
    assert team.crew is crew
    assert Crew(agents=[durable], tasks=[]).agents == [durable]
    assert durable.model_dump(include={"role"}) == {"role": "r"}


class State(BaseModel):
    id: str = ""
    worker: Any = None
    workers: list[SerializeAsAny[BaseAgent]] = []


class Working(Flow[State]):
    worker: Any = None

    @start()
    def work(self) -> str:
        self.state.worker, self.state.workers = self.worker, [self.worker]
        return str(self.state.model_dump()["worker"]["role"])


def serialized_in_another_process() -> None:
    """Nobody may have validated with these classes or asked an object for its fields before."""
    clerk = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini")
    agent = DBOSAgent(agent_name="a", orig_agent=clerk)
    task = Task(description="d", expected_output="e", agent=clerk)
    crew = DBOSCrew(crew_name="c", orig_crew=Crew(agents=[clerk], tasks=[task]))
    flow = DBOSFlow(flow_name="f", orig_flow=Working)

    class Holder(BaseModel):
        any: Any
        agent: SerializeAsAny[Agent]

    def check(_: int) -> None:
        dumped = Holder(any=[agent, crew, flow], agent=agent).model_dump()
        assert [*dumped["any"][0]] == [*clerk.model_dump()]
        assert dumped["any"][1]["name"] == "crew"
        assert dumped["any"][2]["entity_type"] == "flow"
        assert dumped["agent"]["role"] == to_jsonable_python(agent, fallback=str)["role"] == "r"
        assert '"role":"r"' in Holder(any=agent, agent=agent).model_dump_json(fallback=str)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, range(8)))
    own = Working()
    own.worker = agent
    assert own.kickoff() == "r"
    assert [each["role"] for each in own.state.model_dump()["workers"]] == ["r"]
    # A plain agent is none. (crewAI looks for a dict first.)
    for validate in (DBOSAgent.model_validate, TypeAdapter(DBOSAgent).validate_python):
        assert validate(agent) is agent
        with pytest.raises((ValidationError, AttributeError)):
            validate(clerk)
    assert to_jsonable_python(agent, fallback=str)["role"] == "r"

    class Named(DBOSAgent):
        more: str = "m"

    assert Holder(any=Named(agent_name="n", orig_agent=clerk), agent=agent).model_dump()["any"]
    assert Named.model_fields.keys() - DBOSAgent.model_fields.keys() == {"more"}
    assert DBOSAgent.model_json_schema(mode="serialization")["title"] == "DBOSAgent"
    for cls in (DBOSAgent, DBOSCrew, DBOSFlow):
        assert [*inspect.signature(cls).parameters] == [
            *inspect.signature(cls.__init__).parameters
        ][1:]


@pytest.mark.crash
def test_a_durable_object_in_any_field_is_serialized() -> None:
    code = "from agent import test_definitions as t; t.serialized_in_another_process()"
    done = python("-c", code, folder=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_an_object_of_a_class_that_is_made_for_a_run_is_serialized_as_one_of_the_users() -> None:
    class Note(BaseModel):
        text: str

        @field_serializer("text")
        def shout(self, text: str) -> str:
            return text.upper()

    class Mixin:
        pass

    class Holder(BaseModel):
        any: Any

    note = Note(text="a")
    note.__class__ = overridden(Mixin, Note)
    assert Holder(any=note).model_dump() == {"any": {"text": "A"}}
    assert to_jsonable_python([note]) == [{"text": "A"}]
    assert note.model_dump() == {"text": "A"}
    assert type(note).model_validate({"text": "b"}).text == "b"


def test_what_another_process_could_not_rebuild_is_refused_before_anything_ran() -> None:
    class Local(BaseModel):
        name: str

    @tool
    def extra(key: str) -> str:
        """Not a tool of the agent."""
        return key

    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("strict"), orig_agent=clerk(server))
        with pytest.raises(UnstorableInputError, match="top level"):
            agent.execute_task(job(output_pydantic=Local))
        with pytest.raises(UnstorableInputError, match="top level"):
            agent.kickoff("Who?", response_format=Local)
        with pytest.raises(UnstorableInputError, match=r"'extra'.*Add it to the tools"):
            agent.execute_task(job(), tools=[extra])
        kept = DBOSAgent(agent_name=unique("own"), orig_agent=clerk(server, tools=[extra]))

        @tool("extra")
        def other(key: str) -> str:
            """Another tool of the same name."""
            return key

        with pytest.raises(UnstorableInputError, match=r"'extra'.*Add it to the tools"):
            kept.execute_task(job(), tools=[other])
        with pytest.raises(UnstorableInputError, match="JSON form"):
            agent.kickoff([{"role": "user", "content": object()}])
        assert server.requests == []


def test_a_checkpoint_of_crewai_is_refused() -> None:
    """What is restored from one is an ordinary agent, of which nothing would be recorded."""
    with ModelServer(echo) as server:
        agent = DBOSAgent(agent_name=unique("strict"), orig_agent=clerk(server))
        given = CheckpointConfig()
        for kick_off in (
            lambda: agent.kickoff("Who?", from_checkpoint=given),
            lambda: agent.kickoff("Who?", None, None, given),
            lambda: asyncio.run(agent.kickoff_async("Who?", from_checkpoint=given)),
            lambda: asyncio.run(agent.akickoff("Who?", from_checkpoint=given)),
        ):
            with pytest.raises(DefinitionError, match=r"orig_agent\.kickoff\(from_checkpoint"):
                kick_off()
        assert server.requests == []


def test_a_tool_configuration_may_name_tools_that_come_later_if_they_can() -> None:
    later = {"search_docs": StepConfig()}
    with ModelServer(echo) as server:
        with pytest.raises(DefinitionError, match=r"names 'search_docs'.*are none"):
            DBOSAgent(agent_name=unique("closed"), orig_agent=clerk(server), tool_step_config=later)
        orig = clerk(server, mcps=["https://example.invalid/mcp"])
        DBOSAgent(agent_name=unique("open"), orig_agent=orig, tool_step_config=later)


def test_a_workflow_id_is_not_shared_between_different_work() -> None:
    with ModelServer(echo) as server:
        one = DBOSAgent(agent_name=unique("one"), orig_agent=clerk(server))
        two = DBOSAgent(agent_name=unique("two"), orig_agent=clerk(server))
        run_id = unique("shared")
        with SetWorkflowID(run_id):
            first = one.kickoff("Hello.")
        with SetWorkflowID(run_id):
            assert one.kickoff("Hello.").raw == first.raw
        assert len(server.requests) == 1
        with pytest.raises(RunConflictError, match="differs in its agent"), SetWorkflowID(run_id):
            two.kickoff("Hello.")
        with (
            pytest.raises(RunConflictError, match="differs in its arguments"),
            SetWorkflowID(run_id),
        ):
            one.kickoff("Goodbye.")
        assert len(server.requests) == 1
