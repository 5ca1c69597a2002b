"""What the crew or flow of a run is made of, as the run has recorded it.

A fork may go on with code that is made up otherwise, as far as nothing is recorded of what has
changed; so may a run of which nothing is recorded yet. It notes what it is made of then, so that it
is held to that when it is recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dbos import DBOS

from crewai_dbos._dbos_seam.context import detached
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.drift import Onward, drift
from crewai_dbos._journal.scope import Scope
from crewai_dbos._stored import names

FIRST = Call(names.DEFINITION, kind="definition")
"""What the work was made of when it began."""

_AGAIN = Call(names.DEFINITION, kind="definition", background=True)
"""What it goes on as: of a fork, or of a run of which nothing was recorded."""

_BEFORE_ANY_CALL = (names.DEFINITION, names.STATE, names.WORK_ORDER)
"""What is recorded of work that has done nothing yet."""


@dataclass(frozen=True)
class Unfit:
    """Something recorded that another structure puts in the wrong place.

    Attributes:
        told: What has changed.
        places: What is recorded of it.
    """

    told: str
    places: tuple[str, ...]


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


def go_on_or_stop(
    scope: Scope,
    what: str,
    now: dict[str, Any],
    changes: Sequence[str],
    unfit: Sequence[Unfit],
    *,
    may_end_otherwise: bool,
) -> None:
    """The structure of the work in `scope` has changed: it goes on as `now`, or stops its run.

    Args:
        what: What the work is, in words.
        now: A fingerprint of the code that is here.
        changes: What has changed.
        unfit: What of that is recorded.
        may_end_otherwise: Whether its result may be another, though nothing recorded is in a
            wrong place.
    """
    if _has_done_nothing(scope):
        scope.warn_of_drift(
            f"Run {scope.run_id}: nothing was recorded of the {what} yet, so it begins as it is "
            f"now: {'; '.join(changes)}."
        )
        _note(scope, now)
        return
    left, onward = _what_is_left(scope, unfit, may_end_otherwise)
    forked = _is_fork(scope)
    if forked and not left:
        _note(scope, now)
        return
    told = left if forked else [*changes, *(each for each in left if each not in changes)]
    scope.fail(
        drift(
            f"Run {scope.run_id}: the {what} is not the one that the run began with: "
            f"{'; '.join(told)}.",
            onward,
        )
    )


def _what_is_left(
    scope: Scope, unfit: Sequence[Unfit], may_end_otherwise: bool
) -> tuple[list[str], Onward]:
    """Why a fork that keeps all can't go on, and the fork that can."""
    if unfit:
        places = dict.fromkeys(place for each in unfit for place in each.places)
        places = {"": None} if "" in places else places
        return [each.told for each in unfit], scope.onward(*places)
    followers = scope.followers() if may_end_otherwise else None
    if followers is None:
        return [], Onward()
    found, onward = followers
    then = "is recorded to have come after it, and may have its result"
    return [f"{name} {then}" for name in found], onward


def _has_done_nothing(scope: Scope) -> bool:
    return all("/" not in name and e.what in _BEFORE_ANY_CALL for name, e in scope.entries())


def _is_fork(scope: Scope) -> bool:
    """Whether the run that `scope` is in was made of another's record."""
    status = detached(DBOS.get_workflow_status, scope.run_id)
    return status is not None and status.forked_from is not None


def _note(scope: Scope, now: dict[str, Any]) -> None:
    scope.run(_AGAIN, lambda: now)
