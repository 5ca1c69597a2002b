"""What the processes of test_processes.py do."""

from __future__ import annotations

import time
from typing import Any

from dbos import DBOS, SetWorkflowID

from crewai_dbos._dbos_seam.instance import poll_internal_queue
from crewai_dbos.testing.crash._inside import say
from people import definitions

Order = dict[str, Any]


def launch(order: Order) -> None:
    if order.get("define", True):
        definitions.define_all()
    version = order.get("version", "v1")
    config = {"name": "people", "system_database_url": order["database_url"]}
    dbos = DBOS(config={**config, "application_version": version, "log_level": "CRITICAL"})
    poll_internal_queue(dbos, 0.05)
    DBOS.launch()


def begin(order: Order) -> list[Any]:
    """Start runs of a flow, say when all have the status that they are to have, and go on."""
    launch(order)
    flow = getattr(definitions, order["flow"])
    for run_id in order["ids"]:
        with SetWorkflowID(run_id):
            flow.start()
    wait_for(order["ids"], order["status"])
    say(there=True)
    return results(order)


def begin_all(order: Order) -> list[Any]:
    """Start runs of a flow, say so, and go on."""
    launch(order)
    flow = getattr(definitions, order["flow"])
    for run_id in order["ids"]:
        with SetWorkflowID(run_id):
            flow.start()
    say(there=True)
    return results(order)


def begin_own(order: Order) -> list[Any]:
    """The same of a workflow of the user's."""
    launch(order)
    for run_id in order["ids"]:
        with SetWorkflowID(run_id):
            DBOS.start_workflow(definitions.own_workflow)
    say(there=True)
    return results(order)


def results(order: Order) -> list[Any]:
    """Of the runs that the process goes on for, if not of its own: it may carry out others'."""
    ids = order.get("until", order["ids"])
    return [DBOS.retrieve_workflow(each).get_result() for each in ids]


def finish(order: Order) -> list[Any]:
    """What a program does that is started again."""
    launch(order)
    return results(order)


def lack(order: Order) -> Any:
    """A program without the definition; returns why the run waits."""
    launch({**order, "define": False})
    (run_id,) = order["ids"]
    while True:
        attributes = DBOS.get_workflow_status(run_id).attributes or {}
        if found := attributes.get("crewai_dbos", {}).get("waiting"):
            return found
        time.sleep(0.05)


def wait_for(ids: list[str], status: str) -> None:
    while len(DBOS.list_workflows(workflow_ids=ids, status=status)) < len(ids):
        time.sleep(0.05)
