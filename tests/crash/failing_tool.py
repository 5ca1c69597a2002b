"""A crew that is built anew for each run, one of whose tools says that it has failed."""

from __future__ import annotations

from crewai import Agent, Crew, Task
from crewai.tools import tool
from crewai.tools.tool_failure import ToolFailure

from crewai_dbos import DBOSCrew
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls


@tool
def send(to: str) -> ToolFailure:
    """Send a letter."""
    return ToolFailure(message=f"{to} has moved", code="moved")


def build() -> Crew:
    clerk = Agent(
        role="Clerk", goal="Work", backstory="Brief.", llm="openai/gpt-4o-mini", tools=[send]
    )
    task = Task(description="Write to Ann", expected_output="Whether it came", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])


crew = DBOSCrew(crew_name="failing tool", orig_crew=build)


def script(request: Request) -> Reply:
    if request.tool_results:
        return text("It came back.")
    return tool_calls(ToolCall("send", {"to": "Ann"}))
