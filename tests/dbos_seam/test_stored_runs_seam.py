"""What DBOS has stored of runs: conditions on their rows, and a run made of another's (3.4.0)."""

from __future__ import annotations

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowAttributes, SetWorkflowID, WorkflowSerializationFormat

from crewai_dbos._dbos_seam.copying import copied
from crewai_dbos._dbos_seam.database import Database, launched_database
from crewai_dbos._dbos_seam.rows import recorded_rows
from crewai_dbos._dbos_seam.stored_runs import Condition, has_attribute, has_in_input
from support.launching import launched
from support.names import unique


@DBOS.workflow(serialization_type=WorkflowSerializationFormat.PORTABLE)
def about(subject: str) -> str:
    return DBOS.run_step({"name": "look"}, lambda: subject)


def begun(subject: str, **attributes: object) -> str:
    run_id = unique("about")
    with SetWorkflowID(run_id), SetWorkflowAttributes(attributes):
        about(subject)
    return run_id


def those(database: Database, condition: Condition) -> list[str]:
    with database.engine.connect() as connection:
        query = sa.select(database.runs.c.workflow_uuid).where(condition)
        return [str(run_id) for run_id in connection.execute(query).scalars()]


def test_runs_are_found_by_an_attribute_and_by_their_input(database_url: str) -> None:
    with launched(database_url):
        otters = begun("otters", seam={"kind": "crew"})
        begun("badgers", seam={"kind": "flow"})
        database = launched_database()
        assert those(database, has_attribute(database, "seam", "kind", "crew")) == [otters]
        assert those(database, has_in_input(database, "otter")) == [otters]


def test_a_copy_of_a_run_has_one_more_step(database_url: str) -> None:
    with launched(database_url):
        run_id, fork_id = begun("otters"), unique("copy")
        database = launched_database()
        with database.writing() as connection:
            fork = copied(database, connection, run_id, fork_id, steps=True, version="no process's")
            assert fork is not None
            fork.add(2, "added", {"said": "ä"})
        rows = {row.step_id: (row.name, row.output) for row in recorded_rows(fork_id)}
        assert rows[2] == ("added", {"said": "ä"})
        assert rows[1][0] == "look"
