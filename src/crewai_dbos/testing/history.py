"""Runs as JSON files: kept in a repository, and replayed by the code of today.

history = save(database_url, "ticket-7")      # when the run was made, with the code of then
run_id = restore(history, database_url)       # in a test: into a fresh database
assert replayed(run_id) == history["result"]  # by the code of now, nothing is made again
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from dbos import DBOS
from dbos._utils import GlobalParams
from sqlalchemy.engine import make_url

_RUN = ("name", "serialization", "class_name", "config_name")
_NAMES = ("workflow_status", "workflow_input", "operation_outputs")
_STEP = ("function_id", "function_name", "output", "error", "serialization", "child_workflow_id")


def save(database_url: str, run_id: str) -> dict[str, Any]:
    """The run and the child workflows it started, as plain JSON data.

    Args:
        database_url: DBOS's system database.
        run_id: The workflow id of a finished run.

    Raises:
        LookupError: There is no such run.
    """
    with _tables(database_url) as (connection, status, given, steps):
        runs: dict[str, Any] = {}
        waiting = [run_id]
        while waiting:
            current = waiting.pop()
            found = connection.execute(sa.select(status).where(status.c.workflow_uuid == current))
            row = found.mappings().first()
            if row is None:
                raise LookupError(f"There is no run {current!r} in this database")
            recorded = connection.execute(
                sa.select(steps)
                .where(steps.c.workflow_uuid == current)
                .order_by(steps.c.function_id)
            )
            made = [{name: step[name] for name in _STEP} for step in recorded.mappings()]
            asked = connection.execute(sa.select(given).where(given.c.workflow_uuid == current))
            inputs = asked.mappings().one()["inputs"]
            run = {name: row[name] for name in _RUN}
            runs[current] = {**run, "inputs": inputs, "steps": made}
            waiting += [step["child_workflow_id"] for step in made if step["child_workflow_id"]]
    versions = {
        name: importlib.metadata.version(name) for name in ("crewai-dbos", "crewai", "dbos")
    }
    return {"versions": versions, "run_id": run_id, "runs": runs}


def restore(history: Mapping[str, Any], database_url: str) -> str:
    """Put a saved run into a database that DBOS has been launched on. Returns its id."""
    with _tables(database_url) as (connection, status, given, steps):
        for run_id, saved in history["runs"].items():
            run = {name: saved[name] for name in _RUN}
            known = {"status": "SUCCESS", "created_at": 0, "updated_at": 0, "priority": 0}
            here = {
                "application_version": DBOS.application_version,
                "application_name": GlobalParams.app_name,
                "executor_id": "history",
            }
            connection.execute(
                sa.insert(status).values(workflow_uuid=run_id, **run, **known, **here)
            )
            connection.execute(
                sa.insert(given).values(
                    workflow_uuid=run_id, inputs=saved["inputs"], retention_timestamp=0
                )
            )
            for step in saved["steps"]:
                kept = {name: step[name] for name in _STEP}
                connection.execute(
                    sa.insert(steps).values(workflow_uuid=run_id, retention_timestamp=0, **kept)
                )
    return str(history["run_id"])


def replayed(run_id: str) -> Any:
    """The result that the code of now gives when all of the run is answered from its record."""
    last = max((step["function_id"] for step in DBOS.list_workflow_steps(run_id)), default=0)
    return DBOS.fork_workflow(run_id, last + 1).get_result()


@contextlib.contextmanager
def _tables(database_url: str) -> Iterator[tuple[sa.Connection, sa.Table, sa.Table, sa.Table]]:
    url = make_url(database_url)
    sqlite = url.drivername.startswith("sqlite")
    engine = sa.create_engine(url if sqlite else url.set(drivername="postgresql+psycopg"))
    known = sa.MetaData(schema=None if sqlite else "dbos")
    try:
        with engine.begin() as connection:
            known.reflect(connection, only=list(_NAMES))
            tables = {table.name: table for table in known.sorted_tables}
            status, given, steps = (tables[name] for name in _NAMES)
            yield connection, status, given, steps
    finally:
        engine.dispose()
