"""The examples as the tests' processes run them, each in a working directory of its own."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import documentation_review
import latest_ai.main
import ticket_triage

from crewai_dbos import DBOSCrew, DBOSFlow
from crewai_dbos.testing import report_effect
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from crewai_dbos.testing.effects import EFFECTS

DOCUMENTATION = Path(__file__).parent / "documentation"
TICKETS = ticket_triage.REPOSITORY / "examples" / "tickets"
REPLIES = "replies"
_TOLD = (
    str(DOCUMENTATION),
    str(TICKETS),
    str(Path(latest_ai.main.__file__).parents[2] / "knowledge"),
)

review = DBOSCrew(
    crew_name="review",
    orig_crew=functools.partial(documentation_review.build_crew, DOCUMENTATION, "report.md"),
)
latest_ai_crew = latest_ai.main.crew


@functools.cache
def _triage() -> DBOSFlow:
    return DBOSFlow(flow_name="triage", orig_flow=ticket_triage.Triage)


def __getattr__(name: str) -> DBOSFlow:
    # Building a flow starts threads, and a process that has some can't be forked.
    if name != "triage":
        raise AttributeError(name)
    return _triage()


# Of a crash test ---------------------------------------------------------------------


def set_up() -> None:
    """Work in the run's own directory, and tell the test of every file read or written."""
    os.chdir(Path(os.environ[EFFECTS]).parent)
    sys.addaudithook(_tell_of_files)


def report() -> str:
    """What the run has written."""
    return Path("report.md").read_text()


def replies() -> dict[str, str]:
    """What the run has written, by file."""
    return {path.name: path.read_text() for path in sorted(Path(REPLIES).iterdir())}


def _tell_of_files(event: str, args: tuple[Any, ...]) -> None:
    if event != "open":
        return
    if str(args[0]).startswith(_TOLD):
        report_effect("read", file=Path(args[0]).name)
    elif str(args[0]).startswith(f"{REPLIES}/") and args[1] == "w":
        report_effect("written", file=Path(args[0]).name)


# Whole programs ----------------------------------------------------------------------


def start(program: str, cwd: Path, env: Mapping[str, str], *arguments: str) -> Process:
    """A process in `cwd` that calls a function of this module, with a command line."""
    order = {"cwd": str(cwd), "arguments": arguments}
    job = Job(f"{__name__}:{program}", order, cwd / "log", dict(env))
    # The modules are those of the crash tests, so that one server is enough.
    return fork_server(__name__).start(job)


def documentation_review_main(order: Mapping[str, Any]) -> None:
    os.chdir(order["cwd"])
    sys.argv[1:] = order["arguments"]
    documentation_review.main()


def ticket_triage_main(order: Mapping[str, Any]) -> None:
    os.chdir(order["cwd"])
    sys.argv[1:] = order["arguments"]
    ticket_triage.main()


def latest_ai_run(order: Mapping[str, Any]) -> None:
    os.chdir(order["cwd"])
    latest_ai.main.run()
