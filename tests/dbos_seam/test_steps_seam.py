"""A step in one transaction: what is the same as in a step that DBOS makes (read at 3.4.0)."""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, StepOptions
from dbos._core import _supervise_step, invoke_step
from dbos._sys_db import SystemDatabase
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from crewai_dbos._dbos_seam.instance import engine
from crewai_dbos._dbos_seam.steps import arun_new_step, run_new_step
from support.launching import launched
from support.runs import Rows, afollow, finish, fork, run_id, steps

QUICK: StepOptions = {
    "name": "step",
    "retries_allowed": True,
    "max_attempts": 3,
    "interval_seconds": 0.01,
}


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


def test_a_step_is_one_transaction(url: str) -> None:
    made: dict[str, int] = {}

    def counted(name: str, function: Callable[[], Any]) -> None:
        begun, here = [], threading.get_ident()

        def begin(connection: Any) -> None:
            if threading.get_ident() == here:  # DBOS looks at its queues on others
                begun.append(connection)

        sa.event.listen(engine(), "begin", begin)
        function()
        sa.event.remove(engine(), "begin", begin)
        made[name] = len(begun)

    def plan() -> None:
        for make in (of_dbos, ours):
            counted(make.__name__, lambda make=make: make({"name": "step"}, lambda: 1))

    with launched(url):
        finish(plan, run_id())
    assert made == {"of_dbos": 2, "ours": 1}


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


def test_a_row_is_the_one_that_dbos_writes(url: str) -> None:
    def plan() -> list[Any]:
        return [make({"name": make.__name__}, lambda: {"a": [1]}) for make in (of_dbos, ours)]

    run, rows = run_id(), Rows(url)
    with launched(url):
        assert finish(plan, run) == [{"a": [1]}, {"a": [1]}]
        assert rows.one(run, "ours") == ('{"a":[1]}', None, "portable_json")
        first, second = steps(run)
        for step in (first, second):
            step["function_name"] = ""
            assert step["completed_at_epoch_ms"]
            assert step["started_at_epoch_ms"]
        assert first["output"] == second["output"]
        # What DBOS asks whether a step is recorded finds it.
        assert fork(run, 3, lambda: [of_dbos({"name": n}, lambda: 0) for n in ("of_dbos", "ours")])
    rows.close()


def test_what_of_dbos_a_step_is_made_of() -> None:
    """It has done what we leave out, and the rest in this order, with these names."""
    wanted = ["dbos", "step_ctx", "func", "args", "kwargs"]
    assert list(inspect.signature(invoke_step).parameters)[:5] == wanted
    source = inspect.getsource(invoke_step)
    parts = (".then(record_step_result)", ".intercept(check_existing_result", ".also(EnterDBOSStep")
    assert [source.index(part) for part in parts] == sorted(source.index(part) for part in parts)
    supervised = ["step_name", "preemptible", "timeout_seconds", "shard_key"]
    assert list(inspect.signature(_supervise_step).parameters)[-4:] == supervised
    recorded = inspect.getsource(SystemDatabase.record_operation_result)
    assert "_record_operation_result_txn" in recorded
