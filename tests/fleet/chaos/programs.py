"""What the workers carry out: an agent, a crew, a flow, a crew for a batch, one that asks a person.

`crewai-dbos worker fleet.chaos.programs` imports this.
"""

from __future__ import annotations

from typing import Any

from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
from crewai.tools import tool
from dbos import DBOS

from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, People, StepConfig, step
from fleet.chaos.calls import CALLS, attempt, order

QUEUE = "jobs"


@tool("work")
def work(key: str, asked: str) -> str:
    """Do a piece of work."""
    return attempt(key)


@tool("pay")
def pay(key: str, asked: str) -> str:
    """Pay, which a person has to approve."""
    return attempt(key)


def clerk(*tools: Any) -> Agent:
    return Agent(role="Clerk", goal="Work", backstory="Old.", llm="gpt-4o-mini", tools=[*tools])


def task(agent: Agent, place: str, name: str = "work", calls: int = CALLS, **more: Any) -> Task:
    text = order("{run}", place, name, calls)
    return Task(description=text, expected_output="A line.", agent=agent, **more)


def report() -> Crew:
    """Two tasks beside each other, and one that is given what came of both."""
    left, right, last = clerk(work), clerk(work), clerk(work)
    both = [task(left, "left", async_execution=True), task(right, "right", async_execution=True)]
    return Crew(agents=[left, right, last], tasks=[*both, task(last, "last", context=both)])


def item() -> Crew:
    worker = clerk(work)
    return Crew(agents=[worker], tasks=[task(worker, "item", calls=2)])


def payment() -> Crew:
    payer = clerk(work, pay)
    pays = task(payer, "pays", name="pay", calls=1)
    return Crew(agents=[payer], tasks=[task(payer, "before", calls=1), pays])


class Survey(Flow[dict[str, Any]]):
    """Methods beside each other, one of which has an agent, and what comes of both."""

    @start()
    def left(self) -> str:
        return " ".join(step(attempt, f"{self.state['run']}/left/{n}") for n in range(CALLS))

    @start()
    async def right(self) -> str:
        answer = await clerk(work).kickoff_async(order(self.state["run"], "right"))
        return str(answer.raw)

    @listen(and_(left, right))
    def last(self) -> str:
        return step(attempt, f"{self.state['run']}/last/0")


@DBOS.workflow()
def question(run: str) -> str:
    """A workflow of the user's, as an agent has no queue of its own."""
    return str(agent.kickoff(order(run, "agent")).raw)


agent = DBOSAgent(agent_name="clerk", orig_agent=clerk(work), tool_step_config=StepConfig())
crew = DBOSCrew(crew_name="report", orig_crew=report)
flow = DBOSFlow(flow_name="survey", orig_flow=Survey)
batch = DBOSCrew(crew_name="item", orig_crew=item)
parked = DBOSCrew(
    crew_name="payment",
    orig_crew=payment,
    people=People(approve_tools=["pay"], linger=0.05),
)
STARTED: dict[str, Any] = {"report": crew, "survey": flow, "payment": parked}
