"""Runs as JSON files: kept in a repository, and replayed by the code of today.

history = save(database_url, "ticket-7")      # when the run was made, with the code of then
run_id = restore(history, database_url)       # in a test: into a fresh database
assert replayed(run_id) == history["result"]  # by the code of now, nothing is made again

A history is data. What is not is refused, so one that somebody sends can be looked at and replayed:
the workflow that it names runs, with the inputs in the file, but no step of it does.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID, WorkflowHandle
from sqlalchemy.engine import make_url

from crewai_dbos._dbos_seam.configuration import application_name
from crewai_dbos._dbos_seam.decorated import registered_functions
from crewai_dbos._stored import names
from crewai_dbos.errors import CrewaiDbosError, MissingDefinitionError, RunNotFoundError

from ._history_shape import ENDED, RUN, STEP, checked
from ._replay_only import replay_only

_NAMES = ("workflow_status", "workflow_input", "workflow_output", "operation_outputs")
_POLL = 0.02


class NotRecordedError(CrewaiDbosError):
    """A history lacks what the code of now asks for. The message names it."""


def save(database_url: str, run_id: str) -> dict[str, Any]:
    """The run and the child workflows it started, as plain JSON data.

    Args:
        database_url: DBOS's system database.
        run_id: The workflow id of a finished run.

    Raises:
        RunNotFoundError: There is no such run.
        ValueError: It holds something that is not data, which `restore` would refuse, or a child
            workflow has not ended.

    Example::

        import json
        from pathlib import Path

        from crewai_dbos.testing import history

        run = crew.start({"topic": "otters"})
        run.get_result()
        Path("otters.json").write_text(json.dumps(history.save(database_url, run.workflow_id)))
    """
    with _tables(database_url) as (connection, status, given, results, steps):
        runs: dict[str, Any] = {}
        waiting = [run_id]
        while waiting:
            current = waiting.pop()
            if current in runs:
                continue
            found = connection.execute(sa.select(status).where(status.c.workflow_uuid == current))
            row = found.mappings().first()
            if row is None:
                raise RunNotFoundError(current)
            recorded = connection.execute(
                sa.select(steps)
                .where(steps.c.workflow_uuid == current)
                .order_by(steps.c.function_id)
            )
            made = [{name: step[name] for name in STEP} for step in recorded.mappings()]
            asked = connection.execute(sa.select(given).where(given.c.workflow_uuid == current))
            inputs = asked.mappings().one()["inputs"]
            run = {name: row[name] for name in RUN}
            if current != run_id:
                ended = sa.select(results).where(results.c.workflow_uuid == current)
                outcome = connection.execute(ended).mappings().first() or row
                run |= {name: (row if name == "status" else outcome)[name] for name in ENDED}
            runs[current] = {**run, "inputs": inputs, "steps": made}
            waiting += [step["child_workflow_id"] for step in made if step["child_workflow_id"]]
    versions = {
        name: importlib.metadata.version(name) for name in ("crewai-dbos", "crewai", "dbos")
    }
    history = {"versions": versions, "run_id": run_id, "runs": runs}
    checked(history)
    return history


def restore(history: Mapping[str, Any], database_url: str) -> str:
    """Put a saved run into a database that DBOS has been launched on. Returns its id.

    Raises:
        ValueError: It is not what `save` makes, or holds something that is not data: a pickle that
            is a program. Nothing is restored then. The message names the row, and what to do.

    Example::

        from crewai_dbos.testing import history
        from dbos import DBOS

        run = crew.start({"topic": "otters"})
        run.get_result()
        saved = history.save(database_url, run.workflow_id)
        DBOS.delete_workflow(run.workflow_id)
        assert history.restore(saved, database_url) == run.workflow_id
    """
    closed = checked(history)
    with _tables(database_url) as (connection, status, given, results, steps):
        for run_id, saved in closed["runs"].items():
            run = {name: saved[name] for name in (*RUN, "status")}
            known = {"created_at": 0, "updated_at": 0, "priority": 0}
            here = {
                "application_version": DBOS.application_version,
                "application_name": application_name(),
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
            outcome = {name: saved[name] for name in ("output", "error")}
            connection.execute(
                sa.insert(results).values(workflow_uuid=run_id, retention_timestamp=0, **outcome)
            )
            for step in saved["steps"]:
                connection.execute(
                    sa.insert(steps).values(workflow_uuid=run_id, retention_timestamp=0, **step)
                )
    return str(closed["run_id"])


def replayed(run_id: str) -> Any:
    """The result that the code of now gives when all of the run is answered from its record.

    Raises:
        NotRecordedError: It asked for a step that is not recorded. That was not made: the run
            stopped there.
        RunNotFoundError: There is no such run.
        MissingDefinitionError: There is no such workflow, agent, crew or flow in this process.

    Example::

        from crewai_dbos.testing import history
        from dbos import DBOS

        run = crew.start({"topic": "otters"})
        run.get_result()
        # No request is made: the code of now asks for what was asked then.
        stored = DBOS.retrieve_workflow(run.workflow_id).get_result()
        assert history.replayed(run.workflow_id) == stored
    """
    recorded = DBOS.get_workflow_status(run_id)
    if recorded is None:
        raise RunNotFoundError(run_id)
    if recorded.name not in registered_functions()[0]:
        raise MissingDefinitionError(
            f"Run {run_id!r} is one of the workflow {recorded.name!r}, which is not in this "
            "process. Import the module that defines it before DBOS.launch()."
        )
    last = max((step["function_id"] for step in DBOS.list_workflow_steps(run_id)), default=0)
    fork_id = str(uuid.uuid4())
    missing = replay_only(fork_id)
    with SetWorkflowID(fork_id):
        fork = DBOS.fork_workflow(run_id, last + 1)
    try:
        _wait_for(fork)
    finally:
        DBOS.cancel_workflow(fork_id)  # if it has not ended
    if missing:
        raise NotRecordedError(
            f"Run {run_id!r} can't be replayed: {missing[0]} is not recorded. It was not made, the "
            "run stopped there. Either the history is not whole, or the code of now makes a call "
            "that the code of then did not."
        )
    return fork.get_result()


def _wait_for(fork: WorkflowHandle[Any]) -> None:
    while (status := fork.get_status()).status in ("PENDING", "ENQUEUED"):
        note = (status.attributes or {}).get(names.ATTRIBUTE, {})
        if "waiting" in note:
            raise MissingDefinitionError(note["waiting"])
        time.sleep(_POLL)


@contextlib.contextmanager
def _tables(database_url: str) -> Iterator[tuple[Any, ...]]:
    """A connection, and the tables by `_NAMES`."""
    url = make_url(database_url)
    sqlite = url.drivername.startswith("sqlite")
    engine = sa.create_engine(url if sqlite else url.set(drivername="postgresql+psycopg"))
    known = sa.MetaData(schema=None if sqlite else "dbos")
    try:
        with engine.begin() as connection:
            known.reflect(connection, only=list(_NAMES))
            tables = {table.name: table for table in known.sorted_tables}
            yield connection, *(tables[name] for name in _NAMES)
    finally:
        engine.dispose()
