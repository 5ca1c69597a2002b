"""DBOS for tests: as quick to notice work as it can be."""

from __future__ import annotations

import functools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig
from dbos._core import (
    WorkflowHandleAsyncPolling,
    WorkflowHandleAsyncTask,
    WorkflowHandleFuture,
    WorkflowHandlePolling,
)
from dbos._sys_db import SystemDatabase

from crewai_dbos._dbos_seam import claiming
from crewai_dbos._dbos_seam.instance import looking_first
from crewai_dbos.testing.crash._databases import migrate

# DBOS.destroy() waits for one more poll on SQLite, a second by default.
QUICK: DBOSConfig = {"name": "tests", "notification_listener_polling_interval_sec": 0.05}

for _handle in (
    WorkflowHandleAsyncPolling,
    WorkflowHandleAsyncTask,
    WorkflowHandleFuture,
    WorkflowHandlePolling,
):
    _handle.get_result.__kwdefaults__["polling_interval_sec"] = 0.05  # a second, too


@sa.event.listens_for(sa.Engine, "connect")
def _do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
    """A killed process loses nothing by it, only a power failure would."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def go_on_as_dbos_does() -> None:
    """The second after a launch is over, in which a process with definitions looks more often."""
    claiming._early = None
    if claiming._pace is not None:
        claiming._pace.slow_down()


_templates = tempfile.TemporaryDirectory(prefix="crewai-dbos-template-")


@functools.cache
def _template() -> Path:
    path = Path(_templates.name, "migrated.sqlite")
    migrate(f"sqlite:///{path}")
    return path


def make_database(url: str) -> None:
    """Give a SQLite file that is not there yet its tables, in a third of the time DBOS takes."""
    if url.startswith("sqlite:///") and not (path := Path(url.removeprefix("sqlite:///"))).exists():
        shutil.copyfile(_template(), path)


@contextmanager
def launched(database_url: str, **config: Any) -> Iterator[None]:
    """DBOS is launched in the block, on this database."""
    options = {**QUICK, "system_database_url": database_url, "log_level": "CRITICAL", **config}
    make_database(database_url)
    dbos = DBOS(config=options)
    # Runs that are forked, resumed or recovered wait in this queue.
    dbos._registry.get_internal_queue()._polling_interval_sec = 0.1
    DBOS.launch()
    poll = looking_first(SystemDatabase.start_queued_workflows)
    dbos._sys_db.start_queued_workflows = functools.partial(poll, dbos._sys_db)  # type: ignore[method-assign]
    try:
        yield
    finally:
        DBOS.destroy()


@contextmanager
def launched_in(folder: Path) -> Iterator[None]:
    """As `launched`, with a database in `folder`."""
    with launched(f"sqlite:///{folder}/dbos.sqlite"):
        yield
