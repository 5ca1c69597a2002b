"""The DBOS instance of this process, and its database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import dbos._dbos as _dbos_module
import sqlalchemy as sa
from dbos import DBOS
from dbos._sys_db import SystemDatabase

IMPORTED_AT_LAUNCH = "dbos._sys_db_sqlite"
"""What DBOS imports when it is launched on SQLite."""


def constructed_instance() -> DBOS | None:
    """The DBOS instance of this process, launched or not; None if there is none."""
    return _dbos_module._dbos_global_instance


def launched_instance() -> DBOS:
    """The DBOS instance of this process, launched or not; an error of DBOS if there is none."""
    return _dbos_module._get_dbos_instance()


def is_constructed() -> bool:
    return constructed_instance() is not None


def is_launched() -> bool:
    instance = constructed_instance()
    return instance is not None and instance._launched


def is_shut_down() -> bool:
    """Whether DBOS is not launched any more, or about not to be."""
    return not is_launched() or not launched_instance()._initialized


def has_left_database() -> bool:
    """Whether DBOS has left its database, after the time for runs to end; or there is none."""
    instance = constructed_instance()
    system = None if instance is None else instance._sys_db_field
    return system is None or not system._run_background_processes


def system_database() -> SystemDatabase:
    """Where the launched DBOS instance keeps its workflows."""
    return launched_instance()._sys_db


def engine() -> sa.Engine:
    """What the launched DBOS instance reaches its database through."""
    found: sa.Engine = system_database().engine
    return found


def hidden(_: bool) -> bool:
    """Whether an error of the database leaves out the values that were written: yes."""
    return True


def poll_internal_queue(dbos: DBOS, seconds: float) -> None:
    """Have `dbos`, which is not launched, look every `seconds` for runs to recover, resume, fork.

    Every second is its default, and it waits once before it looks for the first time.
    """
    dbos._registry.get_internal_queue()._polling_interval_sec = seconds


def looking_first(start_queued_workflows: Callable[..., Any]) -> Callable[..., Any]:
    """Have a poll of a queue ask first whether anything is in it, in a tenth of the time.

    DBOS builds its statements anew for each poll, which is most of what a process does that polls
    many times a second.
    """
    waiting: WeakKeyDictionary[SystemDatabase, Any] = WeakKeyDictionary()

    def start(self: SystemDatabase, queue: Any, *args: Any, **kwargs: Any) -> Any:
        if self not in waiting:
            columns = self.tables.workflow_status.c
            where = (columns.queue_name == sa.bindparam("queue"), columns.status == "ENQUEUED")
            waiting[self] = sa.select(columns.priority).where(*where).limit(1)
        with self.engine.connect() as connection:
            found = connection.execute(waiting[self], {"queue": queue.name}).first()
        return ([], None) if found is None else start_queued_workflows(self, queue, *args, **kwargs)

    return start
