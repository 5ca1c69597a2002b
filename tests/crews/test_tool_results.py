"""What a tool returned that has neither a JSON form nor a text."""

from __future__ import annotations

from typing import Any

from crewai import Crew
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from crewai_dbos.testing import ToolCall, tool_calls
from crews.scenarios import agent, task, turns
from support.names import unique
from support.serving import Serve

made: list[str] = []


@tool
def nest(query: str) -> Any:
    """Nest something."""
    made.append(query)
    found: list[Any] = []
    for _ in range(5_000):
        found = [found]
    return found


def nesting() -> Crew:
    clerk = agent("Clerk", tools=[nest])
    return Crew(agents=[clerk], tasks=[task("Nest", clerk)])


def test_the_call_is_recorded_and_the_model_sees_what_it_sees_in_crewai(serve: Serve) -> None:
    script = turns(tool_calls(ToolCall("nest", {"query": "x"})))
    made.clear()
    plain = serve(script)
    expected = nesting().kickoff().raw
    assert made == ["x"]
    ours = serve(script)
    crew = DBOSCrew(crew_name=unique("nesting"), orig_crew=nesting)
    with SetWorkflowID(crew.crew_name):
        assert crew.kickoff().raw == expected
    assert made == ["x", "x"]
    seen = [[result for _, result in each.tool_results] for each in ours.requests]
    assert seen == [[result for _, result in each.tool_results] for each in plain.requests]
    steps = DBOS.list_workflow_steps(crew.crew_name)
    last = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"]).get_workflow_id()
    assert crew.retrieve(last).get_result().raw == expected
    assert made == ["x", "x"]
