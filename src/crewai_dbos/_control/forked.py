"""Runs that a fork goes on for: to go on with one as well would make its work twice."""

from __future__ import annotations

import shlex

import sqlalchemy as sa

from crewai_dbos import _command_lines
from crewai_dbos._dbos_seam.database import DELAYED, ENQUEUED, PENDING, Database
from crewai_dbos._dbos_seam.forks import going_on_for
from crewai_dbos._dbos_seam.stopping import RunToChange
from crewai_dbos._dbos_seam.stored_runs import ERROR, SUCCESS, StoredRun
from crewai_dbos.errors import RunForkedError

_STATES = {
    SUCCESS: "done",
    ERROR: "failed",
    PENDING: "running",
    ENQUEUED: "queued",
    DELAYED: "waiting",
}


def check_not_forked(
    database: Database, connection: sa.Connection, run: RunToChange, verb: str
) -> None:
    """Refuse a run that has not ended, and that a fork goes on for.

    Args:
        verb: What was to be done with it, as the command is called: ``fork``, ``resume``, ``move``.

    Raises:
        RunForkedError: There is such a fork.
    """
    if run.status in (SUCCESS, ERROR):
        return  # it leaves nothing that could be made twice: it is forked to try something
    forks = going_on_for(database, connection, run.run_id)
    if not forks:
        return
    last = forks[-1].run_id
    told = (
        f"Run {run.run_id!r} is forked already: {named(forks)}. What was left of it is made there, "
        f"and would be made a second time. Look at it: {_command_lines.show(last)}. To {verb} the "
        f"run all the same: crewai-dbos runs {verb} {shlex.quote(run.run_id)} --even-if-forked "
        "(in Python even_if_forked=True)"
    )
    raise RunForkedError(run.run_id, run.status, told, tuple(fork.run_id for fork in forks))


def where_the_result_is(database: Database, connection: sa.Connection, run_id: str) -> str:
    """How to come to the result of a run that was cancelled: a sentence."""
    if forks := going_on_for(database, connection, run_id):
        word = "fork" if len(forks) == 1 else "forks"
        return f"The result is that of its {word} {named(forks)}."
    return f"To go on: {_command_lines.resume(run_id)}"


def named(forks: list[StoredRun]) -> str:
    """Forks with their states, as one text."""
    return ", ".join(f"{fork.run_id!r} ({_STATES[fork.status]})" for fork in forks)
