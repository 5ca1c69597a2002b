"""What a fork makes again is said before it is made: those effects happen in the world again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from dbos import DBOS
from typer.testing import CliRunner, Result

from crewai_dbos import DBOSCrew, DBOSFlow
from crewai_dbos._commands import forking
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crewai_dbos.errors import ForkError, RunNotFoundError
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from crews.scenarios import agent, task
from flows.scenarios import say
from support.launching import launched
from support.names import unique
from support.serving import Serve, serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('forks')}/dbos.sqlite"
    with launched(url):
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    yield from serving(monkeypatch, books)


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def call(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, ["runs", "fork", *arguments], input=typed)

    return call


booked: list[str] = []


@tool
def book_gardener(day: str) -> str:
    """Book a gardener."""
    booked.append(day)
    return f"booked for {day}"


def books(request: Request) -> Reply:
    if request.offered_tools and not request.tool_results:
        days = ("Monday", "Friday")
        return tool_calls(*(ToolCall("book_gardener", {"day": day}) for day in days))
    return text("It is ill.")


class Garden(Flow):
    @start()
    def look(self) -> str:
        return say("look")

    @listen(look)
    def heal(self, seen: str) -> str:
        clerk = agent("Clerk", tools=[book_gardener])
        return str(Crew(agents=[clerk], tasks=[task("Book", clerk)]).kickoff().raw)


@pytest.fixture
def run_id(serve: Serve) -> str:
    serve()
    run = DBOSFlow(flow_name=unique("garden"), orig_flow=Garden).start()
    run.get_result()
    booked.clear()
    return run.workflow_id


HEALED = "2 LLM requests, tool book_gardener (2 times), method heal"


def test_of_an_edit(run_id: str, control: Control) -> None:
    again = control.made_again(run_id, edit={"method:look": "Yes."})
    assert (again.llm_requests, again.tools) == (2, {"book_gardener": 2})
    assert str(again) == HEALED
    assert control.made_again(run_id, edit=["method:look"]) == again
    assert not booked
    fork_id = control.fork(run_id, edit={"method:look": "Yes."}, by="ann")
    DBOS.retrieve_workflow(fork_id).get_result()
    assert len(booked) == 2
    marks = {node.name: node.edited_by for node in control.run(fork_id).children}
    assert marks == {"method:look": "ann", "method:heal": None}


def test_of_a_place(run_id: str, control: Control) -> None:
    assert str(control.made_again(run_id, "method:heal")) == HEALED
    everything = "3 LLM requests, tool book_gardener (2 times), methods look, heal"
    assert str(control.made_again(run_id, "method:look")) == everything
    assert str(control.made_again(run_id)) == everything
    inside = control.made_again(run_id, "method:heal/llm#2")
    assert str(inside) == "1 LLM request, method heal"
    last = control.made_again(run_id, edit=["method:heal"])
    assert (bool(last), str(last)) == (False, "nothing")


def test_of_a_task_that_is_given(serve: Serve, control: Control) -> None:
    """Nothing in it is made again, as it is not begun."""
    serve()

    def build() -> Crew:
        clerk = agent("Clerk", tools=[book_gardener])
        return Crew(agents=[clerk], tasks=[task("Book", clerk), task("Tell", clerk)])

    run = DBOSCrew(crew_name=unique("garden"), orig_crew=build).start({})
    run.get_result()
    booked.clear()
    again = control.made_again(run.workflow_id, edit=["task:1"])
    assert str(again) == "2 LLM requests, tool book_gardener (2 times)"
    DBOS.retrieve_workflow(control.fork(run.workflow_id, edit={"task:1": "Done."})).get_result()
    assert len(booked) == 2
    assert not control.made_again(run.workflow_id, edit=["task:2"])


def test_what_can_not_be(run_id: str, control: Control) -> None:
    with pytest.raises(RunNotFoundError):
        control.made_again("nobody")
    with pytest.raises(ForkError, match="no 'method:dig'"):
        control.made_again(run_id, "method:dig")
    with pytest.raises(ForkError, match="a text, and a number was given"):
        control.made_again(run_id, edit={"method:look": 3})


def forks(control: Control, run_id: str) -> int:
    return sum(run.forked_from == run_id for run in control.runs(limit=100))


def test_the_command(run_id: str, command: Any, control: Control) -> None:
    told = command(run_id, "--at", "method:heal", "--dry-run")
    assert told.output == f"Made again: {HEALED}. Their effects happen again.\n"
    told = command(run_id, "--at", "method:heal", "--dry-run", "--json")
    assert json.loads(told.stdout)["made_again"]["tools"] == {"book_gardener": 2}
    assert (forks(control, run_id), booked) == (0, [])
    assert command(run_id, "--at", "method:dig", "--dry-run").exit_code == 2
    # Nothing takes what is of another version, so it stays queued; and it is not the newest.
    old = command(run_id, "--at", "method:heal", "--version", "v0")
    assert f"Made again: {HEALED}." in old.output
    assert "It is stranded: it is of application version v0" in old.output
    assert forks(control, run_id) == 1


def test_it_asks_at_a_terminal(
    run_id: str, command: Any, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "is_terminal", lambda: True)
    refused = command(run_id, "--at", "method:heal", typed="n\n")
    assert (refused.exit_code, HEALED in refused.output) == (1, True)
    assert forks(control, run_id) == 0
    made = command(run_id, "--at", "method:heal", "--json", typed="y\n")
    assert json.loads(made.stdout[made.stdout.index("{") :])["forked_from"] == run_id
    assert command(run_id, "--at", "method:heal", "--yes").exit_code == 0
    # Nothing is made again, so there is nothing to ask.
    assert command(run_id, "--edit", 'method:heal="Well."').exit_code == 0
    assert forks(control, run_id) == 3
