"""Files that a crew is given, which crewAI keeps for the whole process by the ids of crew and task.

The copies of a crew in several runs have the ids of the user's crew, so each run keeps its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Coroutine
from typing import Any

from crewai_dbos._journal import run_scope

_CREW = re.compile(r"(?:.*/)?crew:[^/]+", re.DOTALL)


def kept_apart(
    function: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A function of crewAI's store that is given an id first: in a run it is that of the run."""

    @functools.wraps(function)
    async def of_run(id_: Any, *args: Any, **kwargs: Any) -> Any:
        return await function(_of_run(id_), *args, **kwargs)

    return of_run


def _of_run(id_: Any) -> Any:
    """`id_`, with the place of the crew that is at work here."""
    scope = run_scope.around()
    crew = None if scope is None else _CREW.match(scope.path)
    return id_ if scope is None or crew is None else f"{id_}@{scope.run_id}/{crew[0]}"
