"""A step in one transaction: what is the same as in a step that DBOS makes (read at 3.4.0)."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, StepOptions
from dbos._core import _supervise_step, invoke_step
from dbos._error import DBOSStepNondeterminismError, DBOSWorkflowConflictIDError
from dbos._serialization import DBOSPortableJSON
from dbos._sys_db import SystemDatabase
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crewai_dbos._dbos_seam import recording
from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._dbos_seam.recording import StepRow, record
from crewai_dbos._dbos_seam.steps import arun_new_step, run_new_step
from support.launching import launched
from support.postgres import Postgres
from support.runs import afollow, finish, fork, run_id, steps
from support.statements import heard

QUICK: StepOptions = {
    "name": "step",
    "retries_allowed": True,
    "max_attempts": 3,
    "interval_seconds": 0.01,
}


@pytest.fixture(params=["sqlite", "postgres"])
def either_url(request: pytest.FixtureRequest, url: str) -> str:
    if request.param == "sqlite":
        return url
    return str(request.getfixturevalue("postgres").create_database())


def of_dbos(options: StepOptions, body: Callable[[], Any]) -> Any:
    return DBOS.reserve_step().run(options, body)


async def aof_dbos(options: StepOptions, body: Callable[[], Any]) -> Any:
    return await DBOS.reserve_step().run_async(options, body)


def ours(options: StepOptions, body: Callable[[], Any]) -> Any:
    return run_new_step(DBOS.reserve_step(), options, body)


async def aours(options: StepOptions, body: Callable[[], Any]) -> Any:
    return await arun_new_step(DBOS.reserve_step(), options, body)


def seen() -> list[Any]:
    """What a step can see of itself; one inside it has no row."""
    return [*of_itself(), DBOS.run_step({"name": "inside"}, lambda: "inside")]


async def aseen() -> list[Any]:
    return [*of_itself(), await DBOS.run_step_async({"name": "inside"}, lambda: "inside")]


def of_itself() -> list[Any]:
    status = DBOS.step_status
    assert status is not None
    ids = [DBOS.workflow_id, DBOS.step_id, status.step_id]
    return [*ids, status.current_attempt, status.max_attempts]


@pytest.mark.parametrize("options", [{"name": "step"}, QUICK, {**QUICK, "max_attempts": 1}])
def test_a_step_sees_of_itself_what_it_sees_in_dbos(url: str, options: StepOptions) -> None:
    bodies = (seen, aseen)

    def plan() -> list[Any]:
        return [make(options, body) for make in (of_dbos, ours) for body in bodies]

    async def aplan() -> list[Any]:
        return [await make(options, aseen) for make in (aof_dbos, aours)]

    run = run_id()
    with launched(url):
        first, second, third, fourth = without_ids(finish(plan, run))
        assert first == second == third == fourth
        assert [each["function_name"] for each in steps(run)] == ["step"] * 4
        assert [each["function_id"] for each in steps(run)] == [1, 2, 3, 4]
        first, second = without_ids(finish(aplan, run_id(), afollow))
        assert first == second


def without_ids(found: list[list[Any]]) -> list[Any]:
    for number, each in enumerate(found, 1):
        assert each[1:3] == [number, number]
        del each[1:3]
    return found


def test_a_step_is_one_statement(either_url: str) -> None:
    made: dict[str, list[str]] = {}
    here: dict[int, list[str]] = {}  # DBOS looks at its queues on other threads

    def executed(_: Any, statement: str) -> None:
        here.get(threading.get_ident(), []).append(statement)

    def plan() -> None:
        for make in (of_dbos, ours):
            here[threading.get_ident()] = made[make.__name__] = []
            make({"name": "step"}, lambda: 1)
        here.clear()

    with heard(executed), launched(either_url):
        finish(lambda: ours({"name": "first"}, lambda: 1), run_id())  # which asks for the file
        finish(plan, run_id())
    assert len(made["of_dbos"]) == 4
    assert [statement[:11] for statement in made["ours"]] == ["INSERT INTO"]


@pytest.mark.parametrize("name", ["of_dbos", "ours"])
@pytest.mark.parametrize("is_async", [False, True])
def test_attempts_are_told_of_as_dbos_does(
    url: str, name: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = itertools.count(1)

    def fails_twice() -> str:
        if next(numbers) < 3:
            raise ValueError("not yet")
        return "done"

    async def afails_twice() -> str:
        return fails_twice()

    body: Callable[[], Awaitable[str] | str] = afails_twice if is_async else fails_twice
    with launched(url), caplog.at_level(logging.WARNING, "dbos"):
        logging.getLogger("dbos").addHandler(caplog.handler)
        try:
            assert finish(lambda: globals()[name](QUICK, body), run := run_id()) == "done"
        finally:
            logging.getLogger("dbos").removeHandler(caplog.handler)
        told = dict.fromkeys(each.getMessage() for each in caplog.records)
        assert [text for text in told if "retried" in text] == [
            "Step being automatically retried (attempt 1 of 3)",
            "Step being automatically retried (attempt 2 of 3)",
        ]
        assert len(steps(run)) == 1


def test_a_step_has_the_span_that_dbos_makes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    numbers = itertools.count(1)

    def fails_once() -> str:
        if next(numbers) % 2:
            raise ValueError("not yet")
        return "done"

    def plan() -> None:
        for make in (of_dbos, ours):
            make({**QUICK, "name": make.__name__}, fails_once)

    with launched(url, enable_otlp=True):
        finish(plan, run_id())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    told = [
        (
            {**span.attributes, "name": ""},
            span.status.status_code,
            [(event.name, event.attributes) for event in span.events],
            span.parent,
        )
        for span in (spans["of_dbos"], spans["ours"])
        if span.attributes is not None
    ]
    assert told[0] == told[1]
    assert told[1][2]


def test_a_row_is_the_one_that_dbos_writes(either_url: str) -> None:
    def plan() -> None:
        for make in (of_dbos, ours, ours):
            make({"name": "step"}, lambda: {"a": ["\u00e4", 1.5, None]})

    run = run_id()
    with launched(either_url, serializer=DBOSPortableJSON):
        finish(plan, run)
        database = launched_database()
        table = database.system.tables.operation_outputs
        with database.engine.connect() as connection:
            query = sa.select(table).where(table.c.workflow_uuid == run)
            rows = connection.execute(query.order_by(table.c.function_id))
            found: list[dict[str, Any]] = [dict(row._mapping) for row in rows]
        assert [row.pop("function_id") for row in found] == [1, 2, 3]
        for row in found:
            begun, ended = row.pop("started_at_epoch_ms"), row.pop("completed_at_epoch_ms")
            assert begun <= ended
            assert abs(row.pop("retention_timestamp") - ended) < 60_000
        assert found[0] == found[1] == found[2]
        # What DBOS asks whether a step is recorded finds it.
        assert fork(run, 4, lambda: of_dbos({"name": "step"}, lambda: 0))["a"]


def test_what_may_not_be_recorded_is_not(either_url: str) -> None:
    def plan() -> str:
        context = current_context()
        assert context is not None
        assert context.owner_xid is not None
        now = int(time.time() * 1000)
        values = ("step", "{}", "portable_json", now, now)
        row = StepRow(str(DBOS.workflow_id), context.owner_xid, 7, *values)
        system = launched_database().system
        record(system, row)
        record(system, row)  # a commit whose answer was lost
        with pytest.raises(DBOSStepNondeterminismError):
            record(system, dataclasses.replace(row, ended_ms=now + 1))
        with pytest.raises(DBOSWorkflowConflictIDError):
            record(system, dataclasses.replace(row, step_id=8, owner_xid="another"))
        with pytest.raises(DBOSWorkflowConflictIDError):
            record(system, dataclasses.replace(row, run_id="nobody's"))
        return "done"

    with launched(either_url):
        assert finish(plan, run := run_id()) == "done"
        assert [step["function_id"] for step in steps(run)] == [7]


@pytest.mark.parametrize("schema", ["a(b) %c", 'say "x"\ny'])
def test_a_schema_is_called_anything(schema: str, postgres: Postgres) -> None:
    with launched(postgres.create_database(), dbos_system_schema=schema):
        finish(lambda: ours({"name": "step"}, lambda: 1), run := run_id())
        assert [step["function_id"] for step in steps(run)] == [1]
        assert recording._kept[launched_database().system] is not None


def test_an_insert_that_is_not_known_is_made_by_dbos(
    either_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_parts", lambda _: None)
    with launched(either_url):
        finish(lambda: ours({"name": "step"}, lambda: 1), run := run_id())
        assert [step["function_id"] for step in steps(run)] == [1]


@pytest.mark.parametrize("taken", [True, False])
def test_a_run_that_is_being_taken(taken: bool, either_url: str) -> None:
    """Nothing is recorded until it is decided whose it is, and then only for him."""

    def plan() -> Any:
        context = current_context()
        assert context is not None
        assert context.owner_xid is not None
        now = int(time.time() * 1000)
        values = (context.owner_xid, 7, "step", "{}", "portable_json", now, now)
        database = launched_database()
        runs = database.system.tables.workflow_status
        mine = runs.c.workflow_uuid == DBOS.workflow_id
        with ThreadPoolExecutor(1) as pool, database.engine.connect() as connection:
            with connection.begin() as transaction:
                connection.execute(sa.update(runs).where(mine).values(owner_xid="another's"))
                row = StepRow(str(DBOS.workflow_id), *values)
                recorded = pool.submit(record, database.system, row)
                with pytest.raises(TimeoutError):
                    recorded.result(0.5)
                transaction.commit() if taken else transaction.rollback()
            error = recorded.exception(60)
            with connection.begin():
                connection.execute(sa.update(runs).where(mine).values(owner_xid=values[0]))
        return type(error).__name__

    with launched(either_url):
        run = run_id()
        if taken:
            assert finish(plan, run) == "DBOSWorkflowConflictIDError"
            assert steps(run) == []
        else:
            assert finish(plan, run) == "NoneType"
            assert [step["function_id"] for step in steps(run)] == [7]


def test_a_loop_whose_threads_all_wait(tmp_path: Path) -> None:
    """DBOS is launched in a program's loop, whose pool has no thread for the record."""

    async def body() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"a": 1}

    async def program() -> Any:
        with launched(f"sqlite:///{tmp_path}/dbos.sqlite"):
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            plan = lambda: ours(QUICK, body)  # noqa: E731
            return await asyncio.wait_for(asyncio.to_thread(finish, plan, run_id()), 60)

    assert asyncio.run(program()) == {"a": 1}


def test_what_of_dbos_a_step_is_made_of() -> None:
    """It has done what we leave out, and the rest in this order, with these names."""
    wanted = ["dbos", "step_ctx", "func", "args", "kwargs"]
    assert list(inspect.signature(invoke_step).parameters)[:5] == wanted
    source = inspect.getsource(invoke_step)
    parts = (".then(record_step_result)", ".intercept(check_existing_result", ".also(EnterDBOSStep")
    assert [source.index(part) for part in parts] == sorted(source.index(part) for part in parts)
    supervised = ["step_name", "preemptible", "timeout_seconds", "shard_key"]
    assert list(inspect.signature(_supervise_step).parameters)[-4:] == supervised
    recorded = inspect.getsource(SystemDatabase._record_operation_result_txn)
    assert recorded.count("conn.execute(") == 1
    judged = recorded[recorded.index("conn.execute(") :]
    assert "int(existing_completed_at) != completed_at_epoch_ms" in judged
    owner = inspect.getsource(SystemDatabase._check_owner_txn)
    assert owner.count("conn.execute(") == 1
    assert "if current != owner_xid:" in owner
    assert ".with_for_update(key_share=True)" in owner
    whole = inspect.getsource(SystemDatabase.record_operation_result)
    for part in ("@db_retry(sys_db=self)", "self._own_key(", "self.engine.begin() as c"):
        assert part in whole
