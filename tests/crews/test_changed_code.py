"""A run of a crew whose code changed: texts go on, another structure stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from crewai import Crew, Process
from dbos import DBOS

from crewai_dbos import DBOSCrew, DriftError
from crewai_dbos.testing import Request, error
from crews.scenarios import agent, answer, asked, model, search, searching, task, turns
from support.names import unique
from support.serving import Serve


class Versions:
    """A crew whose factory builds another version of it from now on."""

    def __init__(self, first: Callable[[], Crew]) -> None:
        self.build = first
        self.crew = DBOSCrew(crew_name=unique("changing"), orig_crew=lambda: self.build())

    def begun(self) -> str:
        """The id of a run that failed in its second task."""
        run = self.crew.start({"topic": "otters"})
        with pytest.raises(Exception, match="Incorrect API key"):
            run.get_result()
        return run.workflow_id


def two_tasks(**changes: Any) -> Crew:
    """Two tasks of a researcher and a writer, in one version or another."""
    found: dict[str, Any] = {
        "first": "Research {topic}",
        "second": "Write",
        "tools": [search],
        "names": ("research", "write"),
        "order": (0, 1),
        "roles": ("Researcher", "Writer"),
        "more": [],
        "goal": None,
        "llm": model(),
        **changes,
    }
    researcher = agent(found["roles"][0], tools=found["tools"], llm=found["llm"])
    writer = agent(found["roles"][1])
    if found["goal"]:
        writer.goal = found["goal"]
    tasks = [
        task(found["first"], researcher, name=found["names"][0]),
        task(found["second"], writer, name=found["names"][1]),
    ]
    ordered = [tasks[place] for place in found["order"]]
    more = [task(text, writer) for text in found["more"]]
    return Crew(agents=[researcher, writer], tasks=[*ordered, *more])


def fails_in_the_second_task(request: Request) -> Any:
    if asked(request).startswith("Write") and not fixed:
        return error(401)
    return turns(searching("otters"))(request)


fixed: list[bool] = []


@pytest.fixture(autouse=True)
def broken_at_first() -> None:
    fixed.clear()


def stopped_at(run_id: str) -> int:
    """The step at which the second task failed."""
    steps = DBOS.list_workflow_steps(run_id)
    return min(s["function_id"] for s in steps if "task:2" in s["function_name"])


@pytest.mark.parametrize(
    "changes",
    [
        {"first": "Research {topic} with care", "second": "Write well"},
        {"goal": "Write like Hemingway"},
        {"llm": "other"},
    ],
    ids=["tasks", "goal", "model"],
)
def test_another_text_goes_on_with_one_line(
    changes: dict[str, Any], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(fails_in_the_second_task)
    versions = Versions(two_tasks)
    run_id = versions.begun()
    if changes.get("llm") == "other":
        from crewai import LLM

        changes = {"llm": LLM(model="openai/gpt-4o")}
    versions.build = lambda: two_tasks(**changes)
    fixed.append(True)
    before = len(server.requests)
    with caplog.at_level(logging.WARNING, "crewai_dbos"):
        fork = DBOS.fork_workflow(run_id, stopped_at(run_id)).workflow_id
        output = versions.crew.retrieve(fork).get_result()
    assert output.tasks_output[0].raw.startswith("Researcher on Research otters with found")
    assert len(server.requests) - before == 1, "the first task was done again"
    told = [r.getMessage() for r in caplog.records if r.name == "crewai_dbos" and fork in r.message]
    assert len(told) == 1, told
    assert "changed since the crew" in told[0]


STRUCTURES = {
    "another order": ({"order": (1, 0)}, "task 1 ('research') is now 'write'"),
    "another order without names": (
        {"names": (None, None), "order": (1, 0)},
        "task 1 has the text that task 2 had",
    ),
    "another name": ({"names": ("research", "compose")}, "task 2 ('write') is now 'compose'"),
    "a task more": ({"more": ["Sum up"]}, "task 3 is new"),
    "another agent": ({"roles": ("Scout", "Writer")}, "agent of task 1 ('research') was"),
    "a tool less": ({"tools": []}, "the tools of the agent 'Researcher' were search and are none"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_another_structure_stops_the_run(name: str, serve: Serve) -> None:
    changes, message = STRUCTURES[name]
    names = {"names": changes.get("names")} if "without" in name else {}
    server = serve(fails_in_the_second_task)
    versions = Versions(lambda: two_tasks(**names))
    run = versions.crew.start({"topic": "otters"})
    with pytest.raises(Exception, match="Incorrect API key"):
        run.get_result()
    fixed.append(True)
    # A fork would look at the tasks only that it has a record of; this one goes on as a recovery.
    versions.build = lambda: two_tasks(**changes)
    before = len(server.requests)
    DBOS.rewind_workflow(run.workflow_id, start_step=stopped_at(run.workflow_id))
    with pytest.raises(DriftError, match=message.replace("(", r"\(").replace(")", r"\)")):
        run.get_result()
    assert run.get_status().status == "CANCELLED"
    assert message in run.get_status().attributes["crewai_dbos"]["stopped"]
    assert len(server.requests) == before

    versions.build = lambda: two_tasks(**names)
    DBOS.resume_workflow(run.workflow_id)
    output = run.get_result()
    assert output.raw.startswith("Writer on Write")
    assert len(server.requests) - before == 1


def test_a_fork_goes_on_with_another_structure_after_what_is_done(serve: Serve) -> None:
    server = serve(fails_in_the_second_task)
    versions = Versions(two_tasks)
    run_id = versions.begun()
    fixed.append(True)
    versions.build = lambda: two_tasks(
        names=("research", "compose"), second="Compose", more=["Sum up"]
    )
    before = len(server.requests)
    fork = DBOS.fork_workflow(run_id, stopped_at(run_id)).workflow_id
    output = versions.crew.retrieve(fork).get_result()
    assert [each.name for each in output.tasks_output] == ["research", "compose", "Sum up"]
    assert len(server.requests) - before == 2
    recovered = DBOS.fork_workflow(fork, 1 + len(DBOS.list_workflow_steps(fork))).workflow_id
    assert versions.crew.retrieve(recovered).get_result().raw == output.raw
    assert len(server.requests) - before == 2

    versions.build = lambda: two_tasks(names=("investigate", "write"))
    with pytest.raises(DriftError, match="is now 'investigate'"):
        versions.crew.retrieve(DBOS.fork_workflow(run_id, 6).workflow_id).get_result()


def test_another_process_of_the_crew(serve: Serve) -> None:
    serve(answer)
    crew = two_tasks()
    versions = Versions(two_tasks)
    run = versions.crew.start({"topic": "otters"})
    run.get_result()
    crew.process, crew.manager_llm = Process.hierarchical, model()
    versions.build = lambda: crew
    with pytest.raises(DriftError, match="process was 'sequential' and is 'hierarchical'"):
        versions.crew.retrieve(DBOS.fork_workflow(run.workflow_id, 100).workflow_id).get_result()


def test_a_crew_that_can_not_be_built_stops_the_run_until_it_can(serve: Serve) -> None:
    def missing() -> Crew:
        raise OSError("config not there yet")

    serve(answer)
    versions = Versions(two_tasks)
    run = versions.crew.start({"topic": "otters"})
    output = run.get_result()
    versions.build = missing
    fork = versions.crew.retrieve(DBOS.fork_workflow(run.workflow_id, 100).workflow_id)
    with pytest.raises(DriftError, match=r"could not be built .OSError: config not there yet"):
        fork.get_result()
    assert fork.get_status().status == "CANCELLED"
    versions.build = two_tasks
    DBOS.resume_workflow(fork.workflow_id)
    assert fork.get_result() == output
