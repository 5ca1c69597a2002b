"""What stands where crewAI expects an object of its own, as a mock of a test does."""

from __future__ import annotations

from typing import Any

from crewai_dbos._journal import run_scope
from crewai_dbos._secrets import known


def as_it_is(what: str, stand_in: Any) -> Any:
    """`stand_in`, for a run; what it is asked is not recorded, and the user hears so.

    Args:
        what: What it stands for, in words.
    """
    run_scope.warn_once(
        f"The {what} {known.shown(stand_in)} is none of crewAI's, so what it is asked is not "
        "recorded: it is asked again on recovery."
    )
    return stand_in
