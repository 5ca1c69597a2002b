"""A crew that a recorded tool of another crew kicks off."""

from __future__ import annotations

from typing import Any

import pytest
from crewai import Crew
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import ConcurrentRunError, DBOSCrew
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crews.scenarios import agent, task
from support.names import unique
from support.serving import Serve


def script(request: Request) -> Reply:
    """Each asks for the one tool that it has, once."""
    if request.offered_tools and not request.tool_results:
        return tool_calls(ToolCall(request.offered_tools[0], {"what": "otters"}))
    return text(f"Done: {request.tool_results[-1][1] if request.tool_results else 'nothing'}")


def outer(ask_team: Any) -> DBOSCrew:
    boss = agent("Boss", tools=[tool("ask_team")(ask_team)])
    built = Crew(agents=[boss], tasks=[task("Ask", boss)])
    return DBOSCrew(crew_name=unique("outer"), orig_crew=built)


def test_its_tokens_are_its_own_after_recovery_too(serve: Serve) -> None:
    server = serve(script)
    clerk = agent("Clerk")
    team = DBOSCrew(
        crew_name=unique("team"), orig_crew=Crew(agents=[clerk], tasks=[task("Do", clerk)])
    )

    def ask_team(what: str) -> str:
        """Ask the team."""
        return str(team.kickoff().raw)

    crew = outer(ask_team)
    with SetWorkflowID(crew.crew_name):
        undisturbed = crew.kickoff()
    asked = len(server.requests)
    steps = DBOS.list_workflow_steps(crew.crew_name)
    for step in steps[::2]:
        fork = DBOS.fork_workflow(crew.crew_name, step["function_id"] + 1).get_workflow_id()
        found = crew.retrieve(fork).get_result()
        assert found.raw == undisturbed.raw
        assert found.token_usage == undisturbed.token_usage, step["function_name"]
    fork = DBOS.fork_workflow(crew.crew_name, steps[-1]["function_id"] + 1).get_workflow_id()
    before = len(server.requests)
    assert crew.retrieve(fork).get_result().token_usage == undisturbed.token_usage
    assert len(server.requests) == before
    assert asked == 3


def test_an_ordinary_one_with_a_step_of_dbos_is_told_what_to_do(serve: Serve) -> None:
    server = serve(script)
    done: list[str] = []

    @tool
    @DBOS.step(name=unique("press"))
    def press(what: str) -> str:
        """Press it."""
        done.append(what)
        return "pressed"

    def built() -> Crew:
        clerk = agent("Clerk", tools=[press])
        return Crew(agents=[clerk], tasks=[task("Do", clerk)])

    def ask_team(what: str) -> str:
        """Ask the team."""
        return str(built().kickoff().raw)

    with pytest.raises(ConcurrentRunError, match="make that a DBOSAgent or a DBOSCrew"):
        outer(ask_team).kickoff()
    assert not done
    asked = len(server.requests)
    team = DBOSCrew(crew_name=unique("team"), orig_crew=built())

    def ask_durable_team(what: str) -> str:
        """Ask the team."""
        return str(team.kickoff().raw)

    assert outer(ask_durable_team).kickoff().raw == "Done: Done: pressed"
    assert done == ["otters"]
    assert len(server.requests) == asked + 4
