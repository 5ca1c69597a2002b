"""What the processes of these tests do."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout
from typer.testing import CliRunner

from crewai_dbos import Worker
from crewai_dbos._dbos_seam.instance import poll_internal_queue
from crewai_dbos.cli import app
from crewai_dbos.errors import DefinitionError
from crewai_dbos.testing.crash._inside import say
from fleet import definitions

Order = dict[str, Any]

QUEUE = "jobs"


def construct(order: Order) -> DBOS:
    definitions.define(
        with_late=order.get("with_late", True), three_is=order.get("three_is", "Three")
    )
    config: dict[str, Any] = {
        "name": "fleet",
        "system_database_url": order["database_url"],
        "application_version": order.get("version", "v1"),
        "log_level": "CRITICAL",
    }
    if "executor_id" in order:
        config["executor_id"] = order["executor_id"]
    dbos = DBOS(config=config)
    poll_internal_queue(dbos, order.get("poll", 0.1))
    if order.get("deaf"):
        DBOS.listen_queues(["nothing"])
    return dbos


def work(order: Order) -> str:
    """A worker, until it is stopped; says which it is, and begins runs where it is told some."""
    construct(order)
    try:
        with Worker(lease=order.get("lease", 2), grace=order.get("grace", 30)) as worker:
            DBOS.register_queue(QUEUE, global_concurrency=order.get("at_once"))
            begin(order)
            if order.get("defines_late"):
                signal.signal(signal.SIGUSR1, define_late)
            say(worker=worker.executor_id)
            worker.run()
    except DefinitionError as error:
        return str(error)
    return "stopped"


def wait_in_its_block(order: Order) -> Any:
    """A worker whose program waits itself; returns the status that it would end with."""
    construct(order)
    try:
        with Worker(lease=order.get("lease", 30)) as worker:
            begin(order)
            say(worker=worker.executor_id)
            signal.pause()
    except SystemExit as ended:
        return ended.code


def without_a_lease(order: Order) -> str:
    """A program that launches DBOS itself, until it is killed."""
    construct(order)
    DBOS.launch()
    begin(order)
    say(worker=DBOS.executor_id)
    signal.pause()
    return "stopped"


def begin(order: Order) -> None:
    flow = getattr(definitions, order.get("flow", "three"))
    for run_id in order.get("ids", ()):
        with SetWorkflowID(run_id), SetWorkflowTimeout(order.get("limit")):
            flow.start(inputs={"run": run_id}, queue=order.get("queue"))


def define_late(*_: Any) -> None:
    definitions.define_late()
    say(defined=True)


def command(order: Order) -> list[list[Any]]:
    """What `crewai-dbos` ends with and prints, for each of several lists of arguments."""
    os.chdir(order["folder"])
    told = []
    for arguments in order["arguments"]:
        run = CliRunner().invoke(app, arguments)
        told.append([run.exit_code, run.output])
    return told


def command_until_stopped(order: Order) -> None:
    os.chdir(order["folder"])
    try:
        app(order["arguments"])
    except SystemExit as ended:
        os._exit(int(ended.code or 0))


def program(order: Order) -> None:
    """A program in a file, as `python program.py URL` runs it."""
    os.chdir(order["folder"])
    sys.argv[:] = ["program.py", order["url"]]
    runpy.run_path("program.py", run_name="__main__")
