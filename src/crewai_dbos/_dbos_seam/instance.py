"""The DBOS instance of this process, and its database."""

from __future__ import annotations

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
