"""Who asks for runs that have not ended reads these, however many others there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from crewai_dbos._control.run import State
from crewai_dbos._health.census import census
from crewai_dbos.control import Control
from support.postgres import Postgres

ENDED = 20_000


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    """A database of its own, as what Postgres knows of the rows of one stays when it is emptied."""
    url = postgres.create_database()
    rows = (
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, application_name,"
        " queue_name, created_at, updated_at)"
        " SELECT :state || i, :state, 'work', 'shop', 'queue', i, i"
        " FROM generate_series(1, :count) i"
    )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for state in ("PENDING", "ENQUEUED", "DELAYED", "CANCELLED"):
            connection.execute(sa.text(rows), {"state": state, "count": 5})
        connection.execute(sa.text(rows), {"state": "SUCCESS", "count": ENDED})
        connection.execute(sa.text("ANALYZE dbos.workflow_status"))
    engine.dispose()
    return url


@pytest.fixture
def plans(control: Control) -> Iterator[list[str]]:
    """How Postgres carries out what is asked of the table of runs from now on."""
    found: list[str] = []
    engine = control._database.engine

    def explain(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "workflow_status" in statement and not found:
            cursor.execute(f"EXPLAIN {statement}", values)
            found.append("\n".join(line for (line,) in cursor.fetchall()))

    sa.event.listen(engine, "before_cursor_execute", explain)
    yield found
    sa.event.remove(engine, "before_cursor_execute", explain)


def reads_all(plan: str) -> bool:
    """Whether it goes through the table, also in the order of its times."""
    return (
        "Seq Scan on workflow_status" in plan
        or "using workflow_status_created_at_index" in plan
        or "on workflow_status_created_at_index" in plan
    )


def test_what_is_measured(control: Control, plans: list[str]) -> None:
    found = census(control._database, "shop")
    assert sum(found.runs.values()) == 15
    (plan,) = plans
    assert not reads_all(plan), plan


@pytest.mark.parametrize("state", sorted({*get_args(State)} - {"done"}))
def test_lists(control: Control, plans: list[str], state: State) -> None:
    control.runs(state=state)
    (plan,) = plans
    assert not reads_all(plan), plan
