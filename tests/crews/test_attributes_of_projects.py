"""What @before_kickoff methods set on a @CrewBase object is there for callbacks after recovery."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.project import CrewBase, before_kickoff, crew
from crewai.project import agent as an_agent
from crewai.project import task as a_task
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew
from crewai_dbos._objects import projects
from crewai_dbos.errors import RunCancelledError
from crewai_dbos.testing import Reply, Request, text
from crews.scenarios import agent
from support.names import unique
from support.serving import Serve

ended: list[Any] = []


@CrewBase
class Team:
    """Two tasks, whose callbacks add to what a method has set before the kickoff."""

    agents_config: Any = {}  # noqa: RUF012
    tasks_config: Any = {}  # noqa: RUF012

    @before_kickoff
    def prepare(self, inputs: Any) -> Any:
        self.topic = inputs["topic"]
        self.notes: list[str] = []
        self.lock = threading.Lock()
        return inputs

    def note(self, output: Any) -> None:
        self.notes.append(f"{self.topic}: {output.raw}")
        ended.append(list(self.notes))

    @an_agent
    def clerk(self) -> Agent:
        return agent("Clerk")

    @a_task
    def first(self) -> Task:
        return Task(description="One", expected_output="x", agent=self.clerk(), callback=self.note)

    @a_task
    def second(self) -> Task:
        return Task(description="Two", expected_output="x", agent=self.clerk(), callback=self.note)

    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)  # type: ignore[attr-defined]


@pytest.mark.parametrize("at", [1, 2])
def test_they_are_set_again(at: int, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    name, asked = unique("team"), list[Request]()

    def script(request: Request) -> Reply:
        asked.append(request)
        if len(asked) == at:
            DBOS.cancel_workflow(name)
        return text("Done.")

    serve(script)
    ended.clear()
    caplog.set_level(logging.WARNING, "crewai_dbos")
    team = DBOSCrew(crew_name=name, orig_crew=Team)
    with SetWorkflowID(name), pytest.raises(RunCancelledError):
        team.kickoff({"topic": "otters"})
    DBOS.resume_workflow(name).get_result()
    assert ended[-1] == ["otters: Done.", "otters: Done."]
    assert len(ended) == 2
    if at == 1:
        assert "has set 'lock' of Team, which is not stored" in caplog.text


class Guarded:
    """A project whose class does something when an attribute is set."""

    is_crew_class = True

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError(f"{name} was set through the class")


def test_a_row_sets_no_more_than_the_attributes() -> None:
    project = Guarded()
    projects.restore(project, {"topic": "otters", "__class__": "x", "__dict__": {}, "tasks": []})
    assert vars(project) == {"topic": "otters"}
    assert type(project) is Guarded


def test_secrets_and_private_attributes_are_not_stored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "correct-horse-battery")
    caplog.set_level(logging.WARNING, "crewai_dbos")
    team = Team()
    before = projects.attributes(team)
    vars(team).update(
        topic="otters", api_key="sk-1", _client="c", note_of="by correct-horse-battery"
    )
    assert projects.changed(team, before) == {"topic": "otters"}
    told = [record.getMessage() for record in caplog.records]
    assert [sum(name in each for each in told) for name in ("api_key", "_client", "note_of")] == [
        1
    ] * 3
