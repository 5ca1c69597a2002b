"""`crewai-dbos runs fork`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew
from dbos import DBOS
from typer.testing import CliRunner, Result

from control.reading_runs import every
from crewai_dbos import DBOSCrew
from crewai_dbos.cli import app
from crewai_dbos.control import Control
from crews.scenarios import agent, answer, task
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
    yield from serving(monkeypatch, answer)


@pytest.fixture
def fork(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["runs", "fork", *arguments])

    return call


@pytest.fixture
def run_id(serve: Serve) -> str:
    serve()

    def build() -> Crew:
        writer = agent("Writer")
        tasks = [task("Outline {topic}", writer, name="outline"), task("Draft", writer)]
        return Crew(agents=[writer], tasks=tasks)

    run = DBOSCrew(crew_name=unique("forked"), orig_crew=build).start({"topic": "otters"})
    run.get_result()
    return run.workflow_id


def outputs(called: Result) -> list[str]:
    assert called.exit_code == 0, called.output
    told = json.loads(called.stdout)
    found = DBOS.retrieve_workflow(told["run_id"]).get_result()
    return [output["fields"]["raw"] for output in found["fields"]["tasks_output"]]


def test_edited_by_json_and_by_files(run_id: str, fork: Any, tmp_path: Path) -> None:
    assert "given [1. Otters]" in outputs(fork(run_id, "--edit", 'task:1="1. Otters"', "--json"))[1]
    # A shell takes the quotes away.
    assert "given [No, fine.]" in outputs(fork(run_id, "--edit", "task:1=No, fine.", "--json"))[1]
    outline = tmp_path / "outline.md"
    outline.write_text("2. Boats")
    assert "given [2. Boats]" in outputs(fork(run_id, "--edit", f"task:1=@{outline}", "--json"))[1]
    data = tmp_path / "outline.json"
    data.write_text('{"title": "Boats"}')
    assert outputs(fork(run_id, "--edit", f"task:1=@{data}", "--json"))[0] == '{"title": "Boats"}'


def test_the_id_of_the_fork(run_id: str, fork: Any) -> None:
    again = (run_id, "--at", "task:2", "--id", new_id := unique("again"))
    assert f"{new_id} is a fork of {run_id}. Made again: 1 LLM request." in fork(*again).output
    assert f"{new_id} is a fork of {run_id} already." in fork(*again).output
    told = fork(*again, "--json")
    assert len(outputs(told)) == 2
    assert "made_again" not in json.loads(told.stdout)
    taken = fork(new_id, "--id", run_id)
    assert (taken.exit_code, "is that of another run" in taken.output) == (2, True)


@pytest.mark.parametrize(("place", "name"), [("task:1", "task:1.outline"), ("task:2/llm#1", "llm")])
def test_what_is_edited_looks_so(place: str, name: str, run_id: str, fork: Any, url: str) -> None:
    told = json.loads(fork(run_id, "--edit", f"{place}=Boats", "--by", "ann", "--json").stdout)
    DBOS.retrieve_workflow(told["run_id"]).get_result()
    shown = CliRunner().invoke(app, ["runs", "show", told["run_id"]]).output
    assert f"{name} (edited by ann)" in shown
    with Control(url) as control:
        kept = control.run(told["run_id"])
    found = [node for node in every(kept.children) if node.edited_by]
    assert {(node.edited_by, node.edited is None) for node in found} == {("ann", False)}
    assert "(edited by" not in CliRunner().invoke(app, ["runs", "show", run_id]).output


def test_at_and_with_inputs(run_id: str, fork: Any) -> None:
    assert len(outputs(fork(run_id, "--at", "task:2", "--by", "ann", "--json"))) == 2
    inputs = json.dumps({"topic": "boats"})
    assert "Outline boats" in outputs(fork(run_id, "--inputs", inputs, "--json"))[0]
    told = fork(run_id, "--at", "task:outline")
    assert told.exit_code == 0
    assert f"is a fork of {run_id}" in told.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "task:3"], "has recorded no 'task:3'"),
        (["--edit", "task:1"], "is not PLACE=VALUE"),
        (["--edit", 'task:1={"title": Otters}'], "is not JSON"),
        (["--edit", "task:1="], "has no value"),
        (["--edit", "task:1=@nowhere.md"], "can't be read"),
        (["--inputs", "[1]"], "no JSON object"),
        (["--at", "task:1", "--inputs", "{}"], "from the beginning"),
    ],
)
def test_what_can_not_be(arguments: list[str], said: str, run_id: str, fork: Any) -> None:
    called = fork(run_id, *arguments)
    assert (called.exit_code, said in called.output) == (2, True), called.output


def test_an_unknown_run(run_id: str, fork: Any) -> None:
    called = fork("nobody", "--at", "task:1")
    assert (called.exit_code, "There is no run 'nobody'" in called.output) == (1, True)
