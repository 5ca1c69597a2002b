"""What the processes of crash tests run that ask people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.tools import tool
from dbos import DBOS
from pydantic import BaseModel, Field

import crewai_dbos
from crewai_dbos import DBOSCrew, DBOSFlow, People, ask, ask_async
from crewai_dbos.errors import RequestExpired
from crewai_dbos.testing import report_effect


@tool("send_email")
def send_email(to: str, body: str) -> str:
    """Send an email."""
    report_effect("email", to=to, body=body)
    return f"sent to {to}"


def notify(request: Any) -> None:
    report_effect("notice", kind=request.kind)


PEOPLE = People(approve_tools=["send_email"], linger=0.05, notify=notify)


def build() -> Crew:
    clerk = Agent(
        role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini", tools=[send_email]
    )
    write = Task(description="Write to Ann.", expected_output="A receipt.", agent=clerk)
    sum_up = Task(description="Sum up.", expected_output="A line.", agent=clerk, human_input=True)
    return Crew(agents=[clerk], tasks=[write, sum_up])


class Answers(BaseModel):
    said: dict[str, str] = Field(default_factory=dict)


class Intake(Flow[Answers]):
    """Two branches that ask at the same time, a review, and an effect at the end."""

    @start()
    def left(self) -> None:
        self.state.said["left"] = ask("Left?")

    @start()
    async def right(self) -> None:
        first = await ask_async("Right?")
        self.state.said["right"] = first + await ask_async(f"And after {first}?")

    @listen(and_(left, right))
    @human_feedback(message="Publish?")
    def draft(self) -> str:
        return " ".join(sorted(self.state.said.values()))

    @listen(draft)
    def publish(self) -> str:
        said = self.last_human_feedback.feedback  # type: ignore[union-attr]
        return crewai_dbos.step(deliver, f"{said}: {sorted(self.state.said.items())}")


def deliver(what: str) -> str:
    report_effect("deliver", what=what)
    return f"delivered {what}"


class Question(Flow[dict[str, Any]]):
    """Asks, and does what is said."""

    @start()
    def decide(self) -> str:
        try:
            said = ask("Well?")
        except RequestExpired:
            said = "nobody"
        return crewai_dbos.step(deliver, said)


@DBOS.workflow()
def own_workflow() -> str:
    """As users write them: it is not left to its row."""
    return deliver(ask("Well?"))


SHORT = timedelta(seconds=3)

_DEFINITIONS: dict[str, Callable[[str], Any]] = {
    "mailing": lambda name: DBOSCrew(crew_name=name, orig_crew=build, people=PEOPLE),
    "intake": lambda name: _flow(name, Intake, PEOPLE),
    "question": lambda name: _flow(name, Question, People(linger=0.05)),
    "patient": lambda name: _flow(name, Question, People(linger=60)),
    "hurried": lambda name: _flow(name, Question, People(linger=0.05, deadline=SHORT)),
}


def _flow(name: str, cls: type[Flow[Any]], people: People) -> DBOSFlow:
    return DBOSFlow(flow_name=name, orig_flow=cls, people=people)


def __getattr__(name: str) -> Any:
    """A definition: building a flow starts threads, and a process with threads must not fork."""
    if name not in _DEFINITIONS:
        raise AttributeError(name)
    globals()[name] = _DEFINITIONS[name](name)
    return globals()[name]


def define_all() -> None:
    for name in _DEFINITIONS:
        globals().get(name) or __getattr__(name)
