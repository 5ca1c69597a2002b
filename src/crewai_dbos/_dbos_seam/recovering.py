"""Which runs a process recovers when it is launched."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from dbos._utils import GlobalParams

from crewai_dbos._dbos_seam.instance import engine, is_launched, system_database


@dataclass(frozen=True)
class Recovering:
    """Which runs the launched DBOS instance recovers, and where they are.

    Attributes:
        engine: Of the database.
        has_sessions: Whether its connections are sessions, as far as DBOS is told.
        schema, application, version, executor_id: What a run is recovered by.
    """

    engine: sa.Engine
    has_sessions: bool
    schema: str | None
    application: str | None
    version: str
    executor_id: str


def recovering() -> Recovering | None:
    """What this process recovers at its launch; None if it is not launched."""
    if not is_launched():
        return None
    database = system_database()
    return Recovering(
        engine(),
        database.use_listen_notify,
        database.schema,
        GlobalParams.app_name,
        GlobalParams.app_version,
        GlobalParams.executor_id,
    )
