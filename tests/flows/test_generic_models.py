"""Generic models that are given their arguments where they are asked for."""

from __future__ import annotations

from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID

import crewai_dbos
from codec.generic import Item, Page
from crewai_dbos import DBOSAgent, DBOSCrew
from crewai_dbos.testing import Reply, Request, structured, text
from crews.scenarios import model
from flows.test_runs import durable
from support.names import unique
from support.serving import Serve

PAGE = Page[Item](items=[Item(name="a")], next=2)


def paged(request: Request) -> Reply:
    asked = request.response_format or request.forced_tool
    return structured(PAGE.model_dump()) if asked else text("Done.")


def read_page() -> Any:
    read.append(1)
    return Page[Item.Inner](items=[Item.Inner(size=1)])


read: list[int] = []


class Paging(Flow):
    @start()
    def ask(self) -> Any:
        found = LLM(model="openai/gpt-4o-mini", response_format=Page[Item]).call("A page?")
        assert isinstance(found, Page[Item])
        return found

    @listen(ask)
    def read(self, page: Any) -> Any:
        self.state["inner"] = crewai_dbos.step(read_page)
        return [page, self.state["inner"]]


def from_every_entry(owner: Any, run_id: str) -> list[Any]:
    steps = DBOS.list_workflow_steps(run_id)
    forks = [DBOS.fork_workflow(run_id, step["function_id"] + 1) for step in steps]
    return [owner.retrieve(fork.get_workflow_id()).get_result() for fork in forks]


def test_in_a_flow(serve: Serve) -> None:
    server = serve(paged)
    read.clear()
    flow = durable(Paging)
    with SetWorkflowID(flow.flow_name):
        expected = flow.kickoff()
    assert expected == [PAGE, Page[Item.Inner](items=[Item.Inner(size=1)])]
    found = from_every_entry(flow, flow.flow_name)
    # pydantic may make the class anew for another thread.
    assert {tuple(type(each).__name__ for each in one) for one in found} == {
        ("Page[Item]", "Page[Item.Inner]")
    }
    assert found == [expected for _ in found]
    assert len(server.requests) < len(found)


def test_of_an_agent(serve: Serve) -> None:
    serve(paged)
    own = Agent(role="Reader", goal="Read", backstory="Kind.", llm=model())
    agent = DBOSAgent(agent_name=unique("reader"), orig_agent=own)
    with SetWorkflowID(agent.agent_name):
        answer = agent.kickoff("A page?", response_format=Page[Item])
    assert isinstance(answer.pydantic, Page[Item])
    assert answer.pydantic == PAGE
    for again in from_every_entry(agent, agent.agent_name):
        assert again.pydantic == PAGE


def test_of_a_task_of_a_crew(serve: Serve) -> None:
    serve(paged)

    def build() -> Crew:
        reader = Agent(role="Reader", goal="Read", backstory="Kind.", llm=model())
        task = Task(
            description="Read", expected_output="A page", agent=reader, output_pydantic=Page[Item]
        )
        return Crew(agents=[reader], tasks=[task])

    crew = DBOSCrew(crew_name=unique("readers"), orig_crew=build)
    run = crew.start()
    assert run.get_result().pydantic == PAGE
    for again in from_every_entry(crew, run.workflow_id):
        assert again.tasks_output[0].pydantic == PAGE
