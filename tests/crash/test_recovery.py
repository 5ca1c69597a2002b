"""Runs that lost their process, their definition, their database or their good order."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from crash import models
from crash.models import Script
from crash.names import API_KEY, RUN
from crewai_dbos.testing import EffectLog, Hang, ModelServer, Reply, Request, error, hang
from crewai_dbos.testing.crash._fork_server import ForkServer
from crewai_dbos.testing.crash._jobs import PATIENCE, Job
from crewai_dbos.testing.crash._processes import FreshProcess, Process
from crewai_dbos.testing.effects import EFFECTS
from support.databases import some_here, sqlite_here

pytestmark = pytest.mark.crash

ANN_AND_BOB = models.letters(["Ann"], ["Bob"])


class Lab:
    """One database, one model server, and the processes that use them."""

    def __init__(self, server: ForkServer, url: str, directory: Path) -> None:
        self.url = url
        self.effects = EffectLog(directory / "effects")
        self.model = ModelServer(self._reply)
        self.script: Script = ANN_AND_BOB
        self._server = server
        self._directory = directory
        self._held: list[tuple[Callable[[Request], bool], Hang]] = []
        self._processes: list[Process] = []

    def process(
        self,
        job: str,
        *,
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
        **order: Any,
    ) -> Process:
        """Start ``job``, of `crash.jobs` if it names no module."""
        function = job if ":" in job else f"crash.jobs:{job}"
        log = self._directory / f"{len(self._processes)}.log"
        environment = {
            **self.model.env,
            EFFECTS: str(self.effects.path),
            **(environment or {}),
        }
        order = {"database_url": self.url, "agent": "native", "entry": "sync", **order}
        described = Job(function, order, log, environment)
        started = FreshProcess(described) if fresh else self._server.start(described)
        self._processes.append(started)
        return started

    def result(self, job: str, **options: Any) -> Any:
        """Run ``job`` to its end."""
        process = self.process(job, **options)
        end = process.wait()
        assert end.code == 0, f"{job}: {end}\n{process.output()}"
        return end.result

    def killed(self, job: str = "crash.application:start", turn: int = 1, **order: Any) -> None:
        """Run ``job`` and kill it while the request after so many turns waits for its reply."""
        with self.held(lambda request: request.assistant_turns == turn) as held:
            process = self.process(job, **order)
            held.wait_until_held(timeout=PATIENCE)
            process.kill()
            assert process.wait().killed

    @contextlib.contextmanager
    def held(self, which: Callable[[Request], bool]) -> Iterator[Hang]:
        """In the block, such requests get no reply until they are released."""
        hold = hang()
        self._held.append((which, hold))
        yield hold
        self._held.clear()
        hold.release()

    def _reply(self, request: Request) -> Reply:
        for which, hold in self._held:
            if which(request):
                # Each request its own reply: what is held is released together.
                return _Relayed(hold, self.script(request))
        return self.script(request)

    def made(self) -> tuple[list[int], Counter[str]]:
        """How often each different request was made, in order, and the letters by recipient."""
        requests = Counter(request.fingerprint for request in self.model.requests)
        return list(requests.values()), Counter(e.fields["to"] for e in self.effects.read())

    # The database, from outside

    @contextlib.contextmanager
    def connection(self) -> Iterator[tuple[sa.Connection, dict[str, sa.Table]]]:
        """A transaction, and DBOS's tables by their names."""
        engine = sa.create_engine(make_url(self.url).set(drivername=_DRIVERS[self.url[:6]]))
        known = sa.MetaData(schema=None if self.url.startswith("sqlite") else "dbos")
        try:
            with engine.begin() as connection:
                known.reflect(connection)
                yield connection, {table.name: table for table in known.sorted_tables}
        finally:
            engine.dispose()

    def table(self, name: str) -> list[dict[str, Any]]:
        with self.connection() as (connection, tables):
            return [dict(row) for row in connection.execute(sa.select(tables[name])).mappings()]

    def entries(self, run_id: str = RUN) -> dict[int, dict[str, Any]]:
        """The rows of the run's journal by step id."""
        rows = self.table("operation_outputs")
        return {row["function_id"]: row for row in rows if row["workflow_uuid"] == run_id}

    def damage(self, step: int, output: str) -> None:
        with self.connection() as (connection, tables):
            table = tables["operation_outputs"]
            where = (table.c.workflow_uuid == RUN) & (table.c.function_id == step)
            connection.execute(sa.update(table).where(where).values(output=output))


_DRIVERS = {"sqlite": "sqlite", "postgr": "postgresql+psycopg"}


class _Relayed(Hang):
    """A reply that is held as long as another one."""

    def __init__(self, hold: Hang, then: Reply) -> None:
        super().__init__(then)
        self._hold = hold

    def hold(self, on_release: Callable[[], None]) -> None:
        self._hold.hold(on_release)


@pytest.fixture
def lab(server: ForkServer, database_url: str, tmp_path: Path) -> Iterator[Lab]:
    laboratory = Lab(server, database_url, tmp_path)
    with laboratory.model:
        yield laboratory
        for process in laboratory._processes:
            process.end()


# Definitions ------------------------------------------------------------------


@sqlite_here("database_url")
def test_a_program_that_only_imports_and_launches_finishes_the_run(lab: Lab) -> None:
    lab.killed()
    # A new interpreter takes seconds: test_fresh_interpreters has one in `make test`, too.
    fresh = lab.url.startswith("postgres")
    assert lab.result("only_launch", fresh=fresh) == "SUCCESS"
    assert "receipt for Bob" in lab.result("crash.application:recover")
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


@sqlite_here("database_url")
def test_the_definition_comes_half_a_second_after_launch(lab: Lab) -> None:
    lab.killed("start_late")
    process = lab.process("define_after_half_a_second")
    end = process.wait()
    assert "receipt for Bob" in str(end.result)
    assert "waits" not in process.output()
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


@sqlite_here("database_url")
def test_the_definition_is_missing(lab: Lab) -> None:
    lab.killed("start_late")
    process = lab.process("launch_without_definition", define=True)
    assert process.hear("status") == "PENDING"
    note = process.hear("note")["waiting"]
    for said in (note, process.output()):
        assert "no DBOSAgent named 'late'" in said
        assert "Import the module" in said
        assert f"resume_workflow('{RUN}')" in said
    end = process.wait()
    assert "receipt for Bob" in str(end.result), process.output()
    assert "waiting" not in end.result["attributes"]["crewai_dbos"], "it goes on"
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


@sqlite_here("database_url")
def test_a_relaunch_with_the_import_finishes_what_waited(lab: Lab) -> None:
    lab.killed("start_late")
    without = lab.process("launch_without_definition", define=False)
    without.hear("note")
    without.kill()
    assert without.wait().killed
    assert "receipt for Bob" in lab.result("define_after_half_a_second")
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


@sqlite_here("database_url")
def test_agents_are_no_part_of_the_application_version(lab: Lab) -> None:
    fewer = lab.result("version", names=[])
    assert fewer
    assert lab.result("version", names=["one", "two"]) == fewer
    # In a new interpreter it is the same: test_application_version.py.
    fresh = lab.url.startswith("postgres")
    assert lab.result("version", names=["other"], fresh=fresh) == fewer


# Several at once --------------------------------------------------------------


@sqlite_here("database_url")
def test_two_runs_of_one_agent_do_not_see_each_other(lab: Lab) -> None:
    lab.script = models.as_asked
    with lab.held(lambda request: bool(request.tool_results)) as held:
        process = lab.process("start_two")
        held.wait_until_held(2, timeout=PATIENCE)
        process.kill()
        assert process.wait().killed
    assert lab.result("recover_two") == ["Ann: receipt for Ann", "Bob: receipt for Bob"]
    assert sorted(lab.made()[0]) == [1, 1, 2, 2]
    assert lab.made()[1] == {"Ann": 1, "Bob": 1}
    for who, other in (("Ann", "Bob"), ("Bob", "Ann")):
        names = [row["function_name"] for row in lab.entries(who).values()]
        assert len(names) == len(set(names)) == 3
        mine = [r for r in lab.model.requests if f"Write to {who}" in str(r.messages)]
        assert len(mine) == 3
        assert other not in str([request.messages for request in mine])


def test_recovery_and_the_same_call_at_once(lab: Lab) -> None:
    lab.killed()
    answers = lab.result("recover_and_ask")
    assert len(set(answers)) == 1
    assert "receipt for Bob" in answers[0]
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


def test_two_executors_under_one_id(lab: Lab) -> None:
    with lab.held(lambda request: request.assistant_turns == 1) as held:
        first = lab.process("crash.application:start", executor_id="first")
        held.wait_until_held(timeout=PATIENCE)
        second = lab.process("ask_as_another_executor", executor_id="second")
        second.hear("waits")
    ends = [first.wait(), second.wait()]
    assert [end.code for end in ends] == [0, 0], first.output() + second.output()
    assert ends[0].result == ends[1].result
    assert lab.made() == ([1, 1, 1], {"Ann": 1, "Bob": 1})


def test_a_second_process_takes_over_a_run_that_is_at_work(lab: Lab) -> None:
    """DBOS does so when two processes with one executor id are up at the same time."""
    with lab.held(lambda request: request.assistant_turns == 1) as held:
        first = lab.process("crash.application:start")
        held.wait_until_held(timeout=PATIENCE)
        second = lab.process("crash.application:recover")
        held.wait_until_held(2, timeout=PATIENCE)
    ends = [first.wait(), second.wait()]
    assert [end.code for end in ends] == [0, 0], first.output() + second.output()
    assert ends[0].result == ends[1].result
    assert lab.made() == ([1, 2, 1], {"Ann": 1, "Bob": 1})


@pytest.mark.parametrize("entry", ["sync", "async"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_ctrl_c_leaves_a_run_to_be_recovered(lab: Lab, entry: str) -> None:
    with lab.held(lambda request: request.assistant_turns == 1) as held:
        process = lab.process("crash.application:start", entry=entry)
        held.wait_until_held(timeout=PATIENCE)
        os.kill(process.pid, signal.SIGINT)
    assert process.wait().code == 1
    assert "KeyboardInterrupt" in process.output()
    assert "receipt for Bob" in str(lab.result("crash.application:recover"))
    requests, effects = lab.made()
    assert requests in ([1, 1, 1], [1, 2, 1])
    assert effects == {"Ann": 1, "Bob": 1}


@sqlite_here("database_url")
def test_an_id_that_is_taken(lab: Lab) -> None:
    lab.result("crash.application:start")
    found = lab.result("ask_others")
    for what in ("another agent", "another agent, async", "another task"):
        assert found[what]["error"] == "RunConflictError", found[what]
        assert RUN in found[what]["message"]
    assert "receipt for Bob" in found["the same"]["answer"]
    assert lab.made() == ([1, 1, 1], {"Ann": 1, "Bob": 1})


# Damage -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("database_url", "output"),
    some_here(
        [
            ("sqlite", "{not json"),
            ("sqlite", '{"v": 1, "kind": "tool"}'),
            ("sqlite", "null"),
            ("postgres", "{not json"),
        ],
        [("sqlite", '{"v": 1, "kind": "tool"}'), ("postgres", "{not json")],
    ),
    indirect=["database_url"],
)
def test_an_entry_that_can_not_be_read(lab: Lab, output: str) -> None:
    lab.killed(turn=2)
    damaged = next(step for step, row in lab.entries().items() if "tool:" in row["function_name"])
    lab.damage(damaged, output)
    before = lab.entries()
    found = lab.result("recover_damaged", step=damaged)
    assert found["error"] == "JournalCorruptError", found
    name = before[damaged]["function_name"]
    assert re.search(rf"runs fork \S+ --at \S*{re.escape(name)}", found["message"])
    assert "crewai-dbos runs resume " in found["message"]
    assert found["status"] == "CANCELLED"
    assert lab.entries() == before
    assert "receipt for Ann" in found["fork"]
    assert "receipt for Bob" in found["fork"]
    # The entries before it are kept: only the damaged call and those after it are made again.
    assert lab.made() == ([1, 2, 2], {"Ann": 2, "Bob": 2})


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("entry", ["sync", "async"])
def test_the_database_is_gone_for_a_while(lab: Lab, postgres: Any, entry: str) -> None:
    with lab.held(lambda request: request.assistant_turns == 1) as held:
        process = lab.process("start_and_tell_of_writes", entry=entry)
        held.wait_until_held(timeout=PATIENCE)
        postgres.stop()
    try:
        process.hear("agent:native#1/llm#2 unrecorded")
        _wait_for(lambda: "Database connection failed" in process.output())
    finally:
        postgres.start()
    end = process.wait()
    assert end.code == 0, process.output()
    assert "receipt for Bob" in str(end.result)
    assert lab.made() == ([1, 1, 1], {"Ann": 1, "Bob": 1})


# What is stored ---------------------------------------------------------------


@sqlite_here("database_url")
def test_no_secret_is_stored_and_our_rows_are_json(lab: Lab) -> None:
    def script(request: Request) -> Reply:
        if "Fail" in str(request.messages):
            return error(401, message=f"Incorrect API key provided: {API_KEY}.")
        return ANN_AND_BOB(request)

    lab.script = script
    secrets = {"CRASH_TEST_TOKEN": "a-token-of-the-environment"}
    answer, failed = lab.result("start_and_fail", environment=secrets)
    assert "receipt for Bob" in answer
    assert "error" in failed
    stored = list(_everything(lab))
    assert any("receipt for Bob" in value for value in stored)
    texts = {API_KEY, "authorization", "bearer", *secrets.values()}
    environment = {**os.environ, "MODEL_URL": lab.model.base_url}
    texts.update(value for value in environment.values() if len(value) > 20)
    found = {secret for secret in texts for value in stored if secret.lower() in value.lower()}
    assert not found

    rows = lab.table("operation_outputs")
    assert len(rows) >= 5
    for row in rows:
        assert isinstance(json.loads(row["output"]), dict), row
    for row in lab.table("workflow_status"):
        assert row["inputs"] is None or json.loads(row["inputs"])


def _everything(lab: Lab) -> Iterator[str]:
    """Every value in every table as text, and what is pickled in it."""
    with lab.connection() as (connection, tables):
        for table in tables.values():
            for row in connection.execute(sa.select(table)):
                for value in map(str, row):
                    yield value
                    with contextlib.suppress(ValueError):
                        yield base64.b64decode(value, validate=True).decode("latin-1")


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
