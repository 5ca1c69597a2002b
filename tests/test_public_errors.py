"""What a caller can branch on when a run has no result, or can't be had at all."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout, error

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, DBOSFlow, _public, errors
from crewai_dbos._stored.errors import decode_error, encode_error
from crewai_dbos.errors import (
    CrewaiDbosError,
    DeadlinePassedError,
    DefinitionError,
    DriftError,
    EventLoopError,
    JournalCorruptError,
    MissingDefinitionError,
    NotLaunchedError,
    OutsideRunError,
    QueueNotFoundError,
    RecoveryLimitError,
    RunCancelledError,
    RunConflictError,
    RunNotFoundError,
    RunStoppedError,
)
from crewai_dbos.testing import hang, history, text
from support.launching import launched
from support.names import unique
from support.runs import Rows
from support.serving import Serve, serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('errors')}/dbos.sqlite"


@pytest.fixture
def database(url: str) -> Iterator[str]:
    with launched(url):
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda request: text("Yes."))


def durable() -> DBOSAgent:
    orig = Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini", max_retry_limit=0)
    return DBOSAgent(agent_name=unique("clerk"), orig_agent=orig)


def task() -> Task:
    return Task(description="Answer ticket 7", expected_output="A line")


def one_task() -> Crew:
    agent = Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")
    asked = Task(description="Answer ticket 7", expected_output="A line", agent=agent)
    return Crew(agents=[agent], tasks=[asked])


def execute(sqlite_url: str, statement: str, *values: Any) -> None:
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


# Runs without a result -----------------------------------------------------------------------


def test_a_run_that_is_not_there(database: str) -> None:
    run = durable().retrieve("nobody's")
    for ask in (run.get_status, run.get_result, lambda: asyncio.run(run.get_result_async())):
        with pytest.raises(RunNotFoundError, match='no run "nobody\'s" in this database') as caught:
            ask()
        assert caught.value.workflow_id == "nobody's"
        assert isinstance(caught.value, error.DBOSNonExistentWorkflowError)
    with pytest.raises(RunNotFoundError):
        history.save(database, "nobody's")
    with pytest.raises(LookupError):
        history.replayed("nobody's")


def test_a_run_that_is_cancelled_while_somebody_waits(database: str, serve: Serve) -> None:
    held = hang(text("Late."))
    server = serve(lambda request: held)
    agent, caught = durable(), []

    def waiting(ask: Any) -> None:
        with pytest.raises(RunCancelledError) as raised:
            ask()
        caught.append(raised.value)

    def kickoff() -> None:
        with SetWorkflowID(agent.agent_name):
            agent.kickoff("Really?")

    threads = [threading.Thread(target=waiting, args=[kickoff])]
    threads[0].start()
    held.wait_until_held()
    run = agent.retrieve(agent.agent_name)
    threads.append(threading.Thread(target=waiting, args=[run.get_result]))
    threads[1].start()
    DBOS.cancel_workflow(agent.agent_name)
    held.release()
    for thread in threads:
        thread.join(30)
    waiting(kickoff)
    assert len(caught) == 3
    for each in caught:
        assert each.workflow_id == agent.agent_name
        assert isinstance(each, error.DBOSAwaitedWorkflowCancelledError)
        assert not isinstance(each, DeadlinePassedError)
        assert f"crewai-dbos runs resume {agent.agent_name}" in str(each)
        assert str(pickle.loads(pickle.dumps(each))) == str(each)
    DBOS.resume_workflow(agent.agent_name)
    assert run.get_result().raw == "Late."
    assert len(server.requests) == 2, "the call that was cut short is made again"


def test_a_run_whose_deadline_passes(database: str, serve: Serve) -> None:
    held = hang(text("Late."))
    serve(lambda request: held)
    agent = durable()
    with SetWorkflowID(agent.agent_name), SetWorkflowTimeout(0.2):
        DBOS.start_workflow(_until_cancelled, agent.agent_name)
    run = agent.retrieve(agent.agent_name)
    with pytest.raises(DeadlinePassedError, match="deadline has passed") as caught:
        run.get_result()
    assert isinstance(caught.value, RunCancelledError)


@DBOS.workflow()
def _until_cancelled(name: str) -> None:
    while True:
        DBOS.sleep(0.1)


def test_a_kickoff_whose_deadline_passes(database: str, serve: Serve) -> None:
    class Slow(Flow[dict[str, Any]]):
        @start()
        def one(self) -> None:
            while True:
                DBOS.sleep(0.1)

    flow = DBOSFlow(flow_name=unique("slow"), orig_flow=Slow)
    with SetWorkflowTimeout(0.5), pytest.raises(DeadlinePassedError):
        flow.kickoff()
    with SetWorkflowTimeout(0.5), pytest.raises(DeadlinePassedError):
        asyncio.run(flow.akickoff())


def test_a_workflow_that_waits_for_a_cancelled_one_is_not_cancelled(database: str) -> None:
    with SetWorkflowID(other := unique("other")):
        DBOS.start_workflow(_until_cancelled, other)
    DBOS.cancel_workflow(other)
    with SetWorkflowID(own := unique("own")):
        DBOS.start_workflow(_waits_for, other)
    with pytest.raises(error.DBOSAwaitedWorkflowCancelledError) as caught:
        durable().retrieve(own).get_result()
    assert not isinstance(caught.value, RunCancelledError)


@DBOS.workflow()
def _waits_for(run_id: str) -> Any:
    return DBOS.retrieve_workflow(run_id).get_result()


def test_a_run_that_was_recovered_too_often(url: str, serve: Serve) -> None:
    server = serve()
    agent = durable()
    with launched(url), SetWorkflowID(agent.agent_name):
        agent.kickoff("Really?")
    execute(
        url,
        "UPDATE workflow_status SET status = 'PENDING', recovery_attempts = 500 "
        "WHERE workflow_uuid = ?",
        agent.agent_name,
    )
    with launched(url):
        run = agent.retrieve(agent.agent_name)
        with pytest.raises(RecoveryLimitError, match="Find out what ends its process") as caught:
            run.get_result()
        with pytest.raises(RecoveryLimitError), SetWorkflowID(agent.agent_name):
            agent.kickoff("Really?")
    assert isinstance(caught.value, error.DBOSAwaitedWorkflowMaxRecoveryAttemptsExceeded)
    assert len(server.requests) == 1


def test_a_run_whose_record_cannot_be_read(database: str, serve: Serve) -> None:
    server = serve()
    agent = durable()
    with SetWorkflowID(agent.agent_name):
        agent.kickoff("Really?")
    steps = DBOS.list_workflow_steps(agent.agent_name)
    (name,) = [step["function_name"] for step in steps if step["function_name"].endswith("llm#1")]
    rows = Rows(database)
    rows.damage(agent.agent_name, name, json.dumps({"v": 2, "kind": "llm"}))
    rows.close()
    fork = DBOS.fork_workflow(agent.agent_name, steps[-1]["function_id"] + 1).get_workflow_id()

    def kickoff() -> None:
        with SetWorkflowID(fork):
            agent.kickoff("Really?")

    for ask in (agent.retrieve(fork).get_result, kickoff):
        with pytest.raises(JournalCorruptError) as caught:
            ask()
        assert isinstance(caught.value, RunStoppedError)
    assert len(server.requests) == 1


def test_a_run_that_was_recorded_by_other_code(database: str, serve: Serve) -> None:
    server = serve()
    agent = durable()
    with SetWorkflowID(agent.agent_name):
        agent.kickoff("Really?")
    execute(
        database,
        "UPDATE operation_outputs SET function_name = replace(function_name, 'llm#', 'cache#') "
        "WHERE workflow_uuid = ? AND function_name LIKE '%llm#1'",
        agent.agent_name,
    )
    last = DBOS.list_workflow_steps(agent.agent_name)[-1]["function_id"]
    fork = DBOS.fork_workflow(agent.agent_name, last + 1).get_workflow_id()

    def kickoff() -> None:
        with SetWorkflowID(fork):
            agent.kickoff("Really?")

    async def akickoff() -> None:
        with SetWorkflowID(fork):
            await agent.akickoff("Really?")

    for ask in (agent.retrieve(fork).get_result, kickoff, lambda: asyncio.run(akickoff())):
        with pytest.raises(DriftError, match="recorded by other code") as caught:
            ask()
        assert isinstance(caught.value, RunStoppedError)
    assert len(server.requests) == 1


def test_a_stopped_run_is_told_of_once(url: str, serve: Serve) -> None:
    serve()
    names = ["find", "write"]

    def tasks() -> Crew:
        agent = Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")
        asked = [
            Task(name=name, description=name, expected_output="A line", agent=agent)
            for name in names
        ]
        return Crew(agents=[agent], tasks=asked)

    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=tasks)
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    loggers = [logging.getLogger("dbos"), logging.getLogger("crewai_dbos")]
    with launched(url, log_level="INFO"):
        for logger in loggers:
            logger.addHandler(handler)
        with SetWorkflowID(run_id := unique("run")):
            crew.kickoff()
        last = DBOS.list_workflow_steps(run_id)[-1]["function_id"]
        names.insert(0, "first")
        fork = DBOS.fork_workflow(run_id, last).get_workflow_id()

        def kickoff() -> None:
            with SetWorkflowID(fork):
                crew.kickoff()

        for ask in (kickoff, crew.retrieve(fork).get_result):
            with pytest.raises(DriftError, match=r"task 1 \('find'\) is now 'first'"):
                ask()
        for logger in loggers:
            logger.removeHandler(handler)
    errors_told = [each for each in told if each.levelno >= logging.ERROR]
    assert [each.name for each in errors_told] == ["crewai_dbos"]
    assert "is now 'first'" in errors_told[0].getMessage()
    assert not any(each.exc_info for each in told)


@pytest.mark.parametrize("table", ["workflow_status", "operation_outputs"])
def test_an_error_of_the_database_prints_nothing_of_the_run(
    table: str, tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    serve(lambda request: text("The door code is 4711."))
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    agent, question = durable(), "Is 4711 the door code?"
    with launched(url):
        with sqlite3.connect(tmp_path / "dbos.sqlite") as connection:
            connection.execute(
                f"CREATE TRIGGER full BEFORE INSERT ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        connection.close()
        with pytest.raises(Exception, match="disk full") as caught:
            agent.kickoff(question)
    told = "".join(traceback.format_exception(caught.value))
    assert "4711" not in told + caplog.text


# Runs that can't be had ------------------------------------------------------------------------


def test_before_the_launch(url: str, serve: Serve) -> None:
    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=one_task())
    run = crew.retrieve("7")
    for ask in (crew.start, run.get_status, run.get_result):
        with pytest.raises(NotLaunchedError, match="Launch DBOS first") as caught:
            ask()
        assert isinstance(caught.value, DefinitionError)
        assert isinstance(caught.value, error.DBOSException)


def test_a_queue_that_nobody_has_registered(database: str) -> None:
    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=one_task())
    with pytest.raises(QueueNotFoundError, match=r"DBOS.register_queue\('nights'\)") as caught:
        crew.start(queue="nights")
    assert isinstance(caught.value, DefinitionError)


def test_inside_an_event_loop(database: str) -> None:
    agent = durable()

    async def work() -> None:
        agent.execute_task(task())

    with pytest.raises(EventLoopError, match="Use aexecute_task") as caught:
        asyncio.run(work())
    assert isinstance(caught.value, RuntimeError)


def test_outside_of_a_run() -> None:
    with pytest.raises(OutsideRunError) as caught:
        crewai_dbos.idempotency_key()
    assert isinstance(caught.value, RuntimeError)


def test_an_id_of_another_run(database: str, serve: Serve) -> None:
    serve()
    agent = durable()
    with SetWorkflowID(agent.agent_name):
        agent.kickoff("Really?")
    with pytest.raises(RunConflictError), SetWorkflowID(agent.agent_name):
        agent.kickoff("Sure?")


def test_a_workflow_that_is_not_here(url: str, serve: Serve) -> None:
    with launched(url):
        name = unique("gone")
        with SetWorkflowID(name):
            durable().retrieve(DBOS.start_workflow(_until_cancelled, name).workflow_id)
        DBOS.cancel_workflow(name)
        execute(url, "UPDATE workflow_status SET name = 'gone' WHERE workflow_uuid = ?", name)
        with pytest.raises(MissingDefinitionError, match="workflow 'gone'"):
            history.replayed(name)


# Names -----------------------------------------------------------------------------------------


@pytest.mark.crash
def test_errors_are_there_without_crewai() -> None:
    program = (
        "import sys, crewai_dbos\n"
        "from crewai_dbos import DriftError, errors\n"
        "assert not {'crewai', 'crewai_dbos._public'} & set(sys.modules)\n"
        "assert crewai_dbos.DriftError is errors.DriftError\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_when_it_is_asked_for() -> None:
    names: dict[str, Any] = {}
    exec("from crewai_dbos import *", names)
    for name in set(crewai_dbos.__all__) - set(errors.__all__):
        assert names[name] is getattr(crewai_dbos, name) is getattr(_public, name), name
    assert {"DBOSAgent", "DBOSCrew", "DBOSFlow", "step"} < set(crewai_dbos.__all__)


def test_every_error_has_the_one_base_and_is_exported() -> None:
    found = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and each.__module__ == errors.__name__
    }
    assert found == set(errors.__all__)
    for name in found:
        assert issubclass(getattr(errors, name), CrewaiDbosError)
        assert getattr(crewai_dbos, name) is getattr(errors, name)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_are_stored_under_the_name_of_earlier_versions(name: str) -> None:
    cls = getattr(errors, name)
    stored = encode_error(cls.__new__(cls))
    assert stored["type"] == f"crewai_dbos._errors:{name}"
    assert type(decode_error(stored)) is cls


def test_pickles_of_earlier_versions_are_read() -> None:
    old = b"\x80\x04ccrewai_dbos._errors\nDriftError\n\x8c\x03now\x85R."
    found = pickle.loads(old)
    assert type(found) is DriftError
    assert str(found) == "now"
