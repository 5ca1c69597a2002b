"""What the crew or flow of a run is made of, as the run has recorded it.

A fork may go on with code that is made up otherwise, as far as nothing is recorded of what has
changed. It notes what it is made of then, so that it is held to that when it is recovered.
"""

from __future__ import annotations

from typing import Any

from dbos import DBOS

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._stored import names

FIRST = Call(names.DEFINITION, kind="definition")
"""What the work was made of when it began."""


def recorded(scope: Scope, now: dict[str, Any], first: Call = FIRST) -> dict[str, Any]:
    """What the work of `scope` was last known to be made of: `now` when it begins.

    Args:
        now: A fingerprint of the code that is here.
        first: What it is recorded as when it begins, with what else is to be stored.
    """
    found: dict[str, Any] = scope.run(first, lambda: now)
    while scope.is_recorded(names.DEFINITION):
        found = scope.run(_AGAIN, lambda: now)
    return found


def is_fork(scope: Scope) -> bool:
    """Whether the run that `scope` is in was made of another's record."""
    status = detached(DBOS.get_workflow_status, scope.run_id)
    return status is not None and status.forked_from is not None


def note(scope: Scope, now: dict[str, Any]) -> None:
    """The work of `scope` goes on as `now`."""
    scope.run(_AGAIN, lambda: now)


_AGAIN = Call(names.DEFINITION, kind="definition", background=True)
