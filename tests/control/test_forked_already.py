"""A run that a fork goes on for: what is left of it is made once, unless somebody asks for more."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai import Crew
from crewai.tools import tool
from dbos import DBOS, DBOSClient, SetWorkflowID
from typer.testing import CliRunner, Result

from crewai_dbos import DBOSCrew
from crewai_dbos._commands import asking
from crewai_dbos.cli import app
from crewai_dbos.control import Control, Fork
from crewai_dbos.errors import DriftError, RunCancelledError, RunForkedError
from crewai_dbos.testing import Request, ToolCall, text, tool_calls
from crews.scenarios import agent, asked, task
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

bought: list[str] = []


@tool
def buy(what: str) -> str:
    """Buy something."""
    bought.append(what)
    return f"bought {what}"


def books(request: Request) -> Any:
    if "Buy" in asked(request) and request.assistant_turns == 0:
        return tool_calls(ToolCall("buy", {"what": "a ticket"}))
    return text("Well.")


class Given:
    """A run that was cut off before it has bought anything, and its code."""

    def __init__(self, serve: Serve, control: Control) -> None:
        self.tasks = ["Find", "Buy"]
        self.crew = DBOSCrew(crew_name=unique("buys"), orig_crew=self.build)
        self.control = control
        held, go_on = threading.Event(), threading.Event()

        def script(request: Request) -> Any:
            if "Buy" in asked(request) and not held.is_set():
                held.set()
                go_on.wait(60)
            return books(request)

        serve(script)
        self.run = self.crew.start()
        self.id = self.run.workflow_id
        assert held.wait(60)
        control.cancel(self.id, by="ann", reason="A deploy")
        go_on.set()
        with pytest.raises(RunCancelledError):
            self.run.get_result()
        bought.clear()

    def build(self) -> Crew:
        clerk = agent("Clerk", tools=[buy])
        return Crew(agents=[clerk], tasks=[task(each, clerk, name=each) for each in self.tasks])

    def stop_by_drift(self) -> None:
        self.tasks.append("Review")
        self.control.resume(self.id)
        with pytest.raises(DriftError):
            self.crew.retrieve(self.id).get_result()
        assert bought == []

    def result(self, run_id: str) -> Any:
        return self.crew.retrieve(run_id).get_result()

    def forks(self) -> int:
        return len(self.control.run(self.id).forks)

    def end(self) -> None:
        """Wait for all its forks."""
        for fork in self.control.run(self.id).forks:
            self.result(fork.run_id)


@pytest.fixture
def given(serve: Serve, control: Control) -> Given:
    return Given(serve, control)


@pytest.fixture
def runs(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)

    def call(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, ["runs", *arguments], input=typed)

    return call


@BOTH
def test_a_stopped_run_is_not_forked_again(given: Given, control: Control, runs: Any) -> None:
    given.stop_by_drift()
    fork = control.fork(given.id, at="end")
    given.result(fork)
    assert bought == ["a ticket"]
    with pytest.raises(RunForkedError, match=rf"{fork}.*\(done\).*even_if_forked") as refused:
        control.fork(given.id, at="end")
    assert refused.value.forks == (fork,)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.forks) == (str(refused.value), (fork,))
    called = runs("fork", given.id, "--at", "end", "--yes")
    assert called.exit_code == 1
    assert fork in called.stderr
    assert "--even-if-forked" in called.stderr
    assert (bought, given.forks()) == (["a ticket"], 1)
    # Asked for under its id it is that fork, and who wants another gets it.
    assert control.fork(given.id, at="end", fork_id=fork) == fork
    assert runs("fork", given.id, "--at", "end", "--even-if-forked").exit_code == 0
    given.result(control.fork(given.id, at="end", even_if_forked=True))
    given.end()
    assert (len(bought), given.forks()) == (3, 3)


def test_it_is_shown(given: Given, control: Control, runs: Any) -> None:
    given.stop_by_drift()
    first = control.fork(given.id, at="end", version="another")
    shown = " ".join(runs("show", given.id).stdout.split())
    assert f"forked as {first} (stranded)" in shown or f"forked as {first} (queued)" in shown
    control.cancel(first)
    second = control.fork(given.id, at="end")
    given.result(second)
    found = control.run(given.id)
    assert found.forks == (Fork(first, "cancelled"), Fork(second, "done"))
    assert control.run(second).forks == ()
    shown = " ".join(runs("show", given.id).stdout.split())
    assert f"forked as {first} (cancelled), {second} (done)" in shown
    assert bought == ["a ticket"]


def test_at_a_terminal_it_is_asked(
    given: Given, control: Control, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = control.fork(given.id, at="end")
    given.result(fork)
    monkeypatch.setattr(asking, "is_terminal", lambda: True)
    for command in (["fork", given.id, "--at", "end"], ["resume", given.id]):
        called = runs(*command, typed="n\n")
        assert called.exit_code == 1
        assert fork in called.stderr
    assert (bought, given.forks()) == (["a ticket"], 1)
    assert runs("fork", given.id, "--at", "end", typed="y\n").exit_code == 0
    given.end()
    assert len(bought) == 2
    assert runs("resume", given.id, typed="y\n").exit_code == 0
    given.result(given.id)
    assert len(bought) == 3


def test_a_run_is_not_resumed_beside_its_fork(given: Given, control: Control, runs: Any) -> None:
    fork = control.fork(given.id, at="end")
    given.result(fork)
    with pytest.raises(RunForkedError, match=rf"{fork}.*even_if_forked"):
        control.resume(given.id)
    called = runs("resume", given.id)
    assert (called.exit_code, bought) == (1, ["a ticket"])
    assert fork in called.stderr
    assert control.run(given.id).state == "cancelled"
    assert runs("resume", given.id, "--even-if-forked").exit_code == 0
    given.result(given.id)
    assert bought == ["a ticket"] * 2


@BOTH
def test_of_forks_at_the_same_time_one_is_made(given: Given, control: Control) -> None:
    def fork(_: int) -> str | None:
        try:
            return control.fork(given.id, at="end")
        except RunForkedError:
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [each for each in pool.map(fork, range(4)) if each is not None]
    (one,) = made
    given.result(one)
    assert (bought, given.forks()) == (["a ticket"], 1)


@BOTH
def test_a_fork_that_was_given_up_does_not_count(given: Given, control: Control) -> None:
    first = control.fork(given.id, at="end", version="another")
    control.cancel(first)
    second = control.fork(given.id, at="end", version="another")
    with pytest.raises(RunForkedError, match=second):
        control.resume(given.id)
    control.cancel(second)
    # But what was forked of such a one does.
    last = control.fork(second, at="end")
    with pytest.raises(RunForkedError, match=last):
        control.resume(given.id)
    given.result(last)
    with pytest.raises(RunForkedError, match=last):
        control.fork(given.id)
    assert bought == ["a ticket"]


def test_a_run_that_has_ended_is_forked_as_often_as_one_likes(
    given: Given, control: Control
) -> None:
    control.resume(given.id)
    given.result(given.id)
    given.result(control.fork(given.id, at="task:Buy"))
    given.result(control.fork(given.id, at="task:Buy"))
    assert bought == ["a ticket"] * 3


def test_who_waits_hears_of_the_fork(given: Given, control: Control, runs: Any, url: str) -> None:
    given.stop_by_drift()
    stopped = str(control.run(given.id).reason)
    fork = control.fork(given.id, at="end")
    given.result(fork)
    is_told = rf"The result is that of the fork '{fork}' .* Its run had stopped: Run "
    with pytest.raises(DriftError, match=is_told) as drift:
        given.result(given.id)
    assert drift.value.fork == fork
    called = runs("cancel", given.id, "--by", "bob", "--reason", "Forked")
    assert called.exit_code == 0
    assert fork in called.stdout
    assert "resume" not in called.stdout
    found = control.run(given.id)
    assert found.state == "cancelled"
    assert str(found.reason).startswith("by bob: Forked")
    assert stopped in str(found.reason), "why it had stopped is still said"
    with pytest.raises(RunCancelledError, match="by bob: Forked") as error:
        given.result(given.id)
    assert error.value.fork == fork
    assert f"its fork {fork!r}" in str(error.value)
    assert "resume" not in str(error.value)
    client = DBOSClient(system_database_url=url)
    try:
        with pytest.raises(RunCancelledError, match=fork):
            given.crew.retrieve(given.id, client=client).get_result()
    finally:
        client.destroy()
    with SetWorkflowID(given.id), pytest.raises(RunCancelledError, match=fork):
        given.crew.kickoff()
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.fork) == (str(error.value), fork)
    called = runs("cancel", given.id)
    assert called.exit_code == 1
    assert fork in called.stderr
    assert "resume" not in called.stderr
    assert bought == ["a ticket"]
    assert DBOS.retrieve_workflow(given.id).get_status().status == "CANCELLED"
