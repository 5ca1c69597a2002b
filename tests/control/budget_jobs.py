"""What the processes of crash tests run that have a budget."""

from __future__ import annotations

from typing import Any

from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_dbos import Budget, DBOSCrew, People
from crewai_dbos.testing import report_effect


@tool("note")
def note(what: str) -> str:
    """Write something down."""
    report_effect("note", what=what)
    return f"noted {what}"


def build() -> Crew:
    clerk = Agent(role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini", tools=[note])
    jobs = [
        Task(description=which, expected_output="A line.", agent=clerk, async_execution=beside)
        for which, beside in (("One.", False), ("Two.", True), ("Three.", True), ("Four.", False))
    ]
    return Crew(agents=[clerk], tasks=jobs)


def notify(request: Any) -> None:
    report_effect("notice", kind=request.kind)


def __getattr__(name: str) -> Any:
    """The definition: building a crew starts threads, and a process with threads must not fork."""
    if name != "asking":
        raise AttributeError(name)
    globals()[name] = DBOSCrew(
        crew_name="budget",
        orig_crew=build,
        people=People(linger=0.05, notify=notify),
        budget=Budget(tokens=1, on_limit="ask"),
    )
    return globals()[name]
