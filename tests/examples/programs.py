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

from crewai_dbos import DBOSCrew
from crewai_dbos.testing import report_effect
from crewai_dbos.testing.crash import _program
from crewai_dbos.testing.crash._processes import Job, Process, fork_server
from crewai_dbos.testing.effects import EFFECTS

DOCUMENTATION = Path(__file__).parent / "documentation"
_TOLD = (str(DOCUMENTATION), str(Path(latest_ai.main.__file__).parents[2] / "knowledge"))

review = DBOSCrew(
    crew_name="review",
    orig_crew=functools.partial(documentation_review.build_crew, DOCUMENTATION, "report.md"),
)
latest_ai_crew = latest_ai.main.crew


# Of a crash test ---------------------------------------------------------------------


def set_up() -> None:
    """Work in the run's own directory, and tell the test of every file that a tool reads."""
    os.chdir(Path(os.environ[EFFECTS]).parent)
    sys.addaudithook(_tell_of_reading)


def report() -> str:
    """What the run has written."""
    return Path("report.md").read_text()


def _tell_of_reading(event: str, args: tuple[Any, ...]) -> None:
    if event == "open" and str(args[0]).startswith(_TOLD):
        report_effect("read", file=Path(args[0]).name)


# Whole programs ----------------------------------------------------------------------


def start(program: str, cwd: Path, env: Mapping[str, str], *arguments: str) -> Process:
    """A process in `cwd` that calls a function of this module, with a command line."""
    order = {"cwd": str(cwd), "arguments": arguments}
    job = Job(f"{__name__}:{program}", order, cwd / "log", dict(env))
    # The modules are those of the crash tests, so that one server is enough.
    return fork_server(_program.__name__, __name__, "openai.resources").start(job)


def documentation_review_main(order: Mapping[str, Any]) -> None:
    os.chdir(order["cwd"])
    sys.argv[1:] = order["arguments"]
    documentation_review.main()


def latest_ai_run(order: Mapping[str, Any]) -> None:
    os.chdir(order["cwd"])
    latest_ai.main.run()
