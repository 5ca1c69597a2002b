"""A workflow of the user's own that starts a run; apart, as its tests' module is imported twice."""

from __future__ import annotations

from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow

CALLS: list[str] = []
FLOWS: dict[str, DBOSFlow] = {}


@DBOS.workflow(name="control.owned.starts_one")
def starts_one(run_id: str) -> str:
    CALLS.append("outside")
    with SetWorkflowID(f"{run_id}/child"):
        run = FLOWS[run_id].start(inputs={"run": f"{run_id}/child"})
    return str(run.get_result())
