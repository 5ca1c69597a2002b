"""What the processes do: workers, as the command starts them, and one program that starts runs."""

from __future__ import annotations

import faulthandler
import itertools
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout

from crewai_dbos.testing import report_effect
from crewai_dbos.testing.crash._inside import say

Order = dict[str, Any]

NAME, VERSION = "chaos", "v1"
BATCH = 3
"""Items of a batch."""
LIMIT = 3600
"""Seconds that a run of a flow may take, which clocks that are apart must not shorten to none."""


def work(order: Order) -> int:
    """``crewai-dbos worker``, with a clock that is some seconds off."""
    from typer.main import get_command

    from crewai_dbos.cli import app

    _shift_clock(order["clock"])
    os.environ["OPENAI_PROJECT_ID"] = str(os.getpid())  # by which the model knows who asks
    logging.getLogger("crewai_dbos").addHandler(_Telling())
    faulthandler.cancel_dump_traceback_later()
    arguments = ["worker", "fleet.chaos.programs", "--db-url", order["database_url"]]
    arguments += ["--lease", str(order["lease"]), "--grace", str(order["grace"])]
    arguments += ["--name", NAME, "--version", VERSION]
    return get_command(app).main(arguments, standalone_mode=False) or 0


class _Telling(logging.Handler):
    """Tells the test whom this worker takes for dead; and, once, that it has begun."""

    def emit(self, record: logging.LogRecord) -> None:
        if "is gone" in record.msg:
            _, process, count, *_ = record.args
            report_effect("gone", process=process, runs=count, at=time.monotonic())


def _shift_clock(seconds: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def begin(order: Order) -> list[str]:
    """Start runs of every kind, wave after wave, until the file `enough` is there.

    Returns:
        What failed of the batches.
    """
    from fleet.chaos import programs

    faulthandler.cancel_dump_traceback_later()
    config: Any = {
        "name": NAME,
        "application_version": VERSION,
        "executor_id": "starter",
        "system_database_url": order["database_url"],
        "log_level": "CRITICAL",
    }
    DBOS(config=config)
    DBOS.listen_queues(["nothing"])
    DBOS.launch()
    queue = DBOS.register_queue(programs.QUEUE)
    failed: list[str] = []
    threads = []
    for wave in itertools.count():
        with SetWorkflowTimeout(LIMIT):
            with SetWorkflowID(f"question-{wave}"):
                queue.enqueue(programs.question, f"question-{wave}")
            for name, definition in programs.STARTED.items():
                run = f"{name}-{wave}"
                with SetWorkflowID(run):
                    definition.start(inputs={"run": run}, queue=programs.QUEUE)
        thread = threading.Thread(target=_batch, args=(f"batch-{wave}", failed))
        thread.start()
        threads.append(thread)
        say(begun=True)
        end, enough = time.monotonic() + order["pause"], Path(order["enough"])
        while not enough.exists() and time.monotonic() < end:
            time.sleep(0.05)
        if enough.exists():
            break
    for thread in threads:
        thread.join()
    return failed


def _batch(run: str, failed: list[str]) -> None:
    from fleet.chaos import programs

    items = [{"run": f"{run}.{number}"} for number in range(BATCH)]
    try:
        with SetWorkflowID(run):
            programs.batch.kickoff_for_each(items, concurrency=2)
    except Exception as error:
        failed.append(f"{run}: {error!r}")
