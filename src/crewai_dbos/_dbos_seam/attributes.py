"""The attributes of a workflow, changed in the transaction that looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from crewai_dbos._dbos_seam.database import Database

Attributes = Mapping[str, Any]


def change(
    database: Database,
    run_id: str,
    changed: Callable[[Attributes, str], Attributes | None],
    *which: sa.ColumnElement[bool],
    also: Mapping[str, Any] | None = None,
) -> bool:
    """Have the attributes of a run be what `changed` makes of them; nobody writes them in between.

    DBOS replaces them, or merges whole top-level keys, and what somebody else wrote since one
    looked is lost. Waits for a database that is away.

    Args:
        changed: Is given the attributes and the status of the run, and returns the new attributes,
            or None where they are to stay. Called again if the database was away.
        which: Conditions on the row of the run, if it is to be left alone otherwise.
        also: What else of the row changes with them, by column.

    Returns:
        Whether there is such a row.
    """
    runs = database.runs
    its_row = (*database.system._wf(runs, run_id), *which)
    look = sa.select(runs.c.attributes, runs.c.status).where(*its_row).with_for_update()

    def work() -> bool:
        with database.writing() as connection:
            row = connection.execute(look).first()
            if row is None:
                return False
            wanted = changed(row.attributes if isinstance(row.attributes, dict) else {}, row.status)
            if wanted is not None:
                values = {"updated_at": database.now_ms, **(also or {}), "attributes": dict(wanted)}
                connection.execute(sa.update(runs).where(*its_row).values(**values))
        return True

    return database.patiently(work)
