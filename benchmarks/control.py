"""Looking at runs in a database of 10,000: a list, lists of some, and what is in one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.databases import databases, kinds, launched
from benchmarks.harness import Row, Spread, timed
from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos.control import Control

NAME = "looking at runs"
RUNS = 10_000
CALLS = 12
"""Of each run, half of them LLM requests."""

TEXT = "A line of what a model has said. " * 30


def measure(quick: bool, folder: Path) -> list[Row]:
    runs, rounds = (500, 3) if quick else (RUNS, 15)
    rows: list[Row] = []
    with databases(folder) as made:
        for kind in kinds(quick):
            url = made.fresh(kind)
            with launched(url):
                _fill(launched_database(), runs)
            with Control(url) as control:
                for case, look in _looks(control).items():
                    look()
                    figures = [timed(look) * 1000 for _ in range(rounds)]
                    rows.append(Row(NAME, case, kind, "ms", Spread.of(figures)))
    return rows


def _looks(control: Control) -> dict[str, Callable[[], Any]]:
    def checked(count: int, **wanted: Any) -> Callable[[], None]:
        def look() -> None:
            assert len(control.runs(**wanted)) == count, wanted

        return look

    def show() -> None:
        assert sum(1 for _ in control.run("run-0").children[0].children[0].children) == CALLS

    return {
        "the newest 50": checked(50),
        "50 of a definition that most are of": checked(50, definition="common"),
        "50 of one that an earlier release began": checked(50, definition="old"),
        "5 of a definition, of all": checked(5, definition="rare"),
        "none of a definition": checked(0, definition="none"),
        "50 that failed": checked(50, state="failed"),
        "10 that are stranded": checked(10, state="stranded"),
        "10 that are stopped": checked(10, state="stopped"),
        "one, as a tree": show,
    }


def _fill(database: Database, runs: int) -> None:
    """Put `runs` runs into the database, as they are stored."""
    tables = database.system.tables
    with database.engine.begin() as connection:
        for start in range(0, runs, 250):
            some = range(start, min(start + 250, runs))
            connection.execute(sa.insert(tables.workflow_status), [_status(n, runs) for n in some])
            connection.execute(sa.insert(tables.workflow_input), [_input(n) for n in some])
            steps = [step for number in some for step in _steps(number)]
            connection.execute(sa.insert(tables.operation_outputs), steps)
    with database.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE"))


def _definition(number: int) -> str:
    return "rare" if number < 5 else "old" if number % 5 == 0 else "common"


def _status(number: int, runs: int) -> dict[str, Any]:
    definition, created = _definition(number), 1_700_000_000_000 + number * 1000
    label = {"crewai_dbos.run": {"definition": definition, "kind": "crew"}}
    attributes: dict[str, Any] | None = None if definition == "old" else label
    status, version = "SUCCESS", "v2"
    if number % 100 == 50:
        status = "ERROR"
    elif number % (runs // 10) == 7:
        status, version = "PENDING", "v1"
    elif number % (runs // 10) == 8:
        status = "CANCELLED"
        attributes = {**label, "crewai_dbos": {"stopped": "Put it back.", "error": "DriftError"}}
    return {
        "workflow_uuid": f"run-{number}",
        "status": status,
        "name": "crewai_dbos.crew",
        "created_at": created,
        "updated_at": created + 9000,
        "completed_at": None if status == "PENDING" else created + 9000,
        "application_version": "vvv" if status == "PENDING" else version,
        "application_name": "bench",
        "executor_id": "local",
        "priority": 0,
        "serialization": "portable_json",
        "recovery_attempts": 1,
        "attributes": attributes,
    }


def _input(number: int) -> dict[str, Any]:
    order = {"v": 2, "crew": _definition(number), "inputs": {"topic": TEXT}}
    text = json.dumps({"namedArgs": {}, "positionalArgs": [order]}, separators=(",", ":"))
    return {"workflow_uuid": f"run-{number}", "inputs": text, "retention_timestamp": 0}


def _steps(number: int) -> Iterator[dict[str, Any]]:
    created = 1_700_000_000_000 + number * 1000
    for call in range(1, CALLS + 1):
        kind, name = ("llm", f"llm#{call}") if call % 2 else ("tool", f"tool:look_up#{call}")
        usage = {"usage": [{"prompt_tokens": 700, "completion_tokens": 60, "total_tokens": 760}]}
        payload: dict[str, Any] = {"v": 2, "kind": kind, "seconds": 0.4}
        payload |= {"extra": usage, "result": TEXT} if call % 2 else {"result": TEXT}
        yield {
            "workflow_uuid": f"run-{number}",
            "function_id": call,
            "function_name": f"crew:c#1/task:1#1/agent:Clerk#1/{name}",
            "output": json.dumps(payload, separators=(",", ":")),
            "started_at_epoch_ms": created + call * 500,
            "completed_at_epoch_ms": created + call * 500 + 400,
            "serialization": "portable_json",
            "retention_timestamp": 0,
        }
