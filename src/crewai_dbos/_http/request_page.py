"""What the page of a request shows beside it: what its run is about, and what comes after it."""

from __future__ import annotations

from typing import Any

from crewai_dbos._http import run_page
from crewai_dbos._http.auth import Caller
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos.control import Request
from crewai_dbos.errors import RunNotFoundError


def around(scoped: ScopedControl, caller: Caller, request: Request) -> dict[str, Any]:
    """What the page shows beside a request.

    Args:
        scoped: Where it is.
        caller: Who looks; of a run that they may not see nothing is shown.
        request: The request.
    """
    try:
        run = scoped.run(caller, request.run_id)
    except RunNotFoundError:
        run = None
    others = () if request.state == "open" else scoped.requests(caller, limit=2)
    following = (each for each in others if each.request_id != request.request_id)
    return {
        "run": run,
        "inputs": None if run is None else run_page.inputs(scoped, run.run_id),
        "goes_on": run is not None and run.state in run_page.ALIVE,
        "following": next(following, None),
    }
