"""What a run returned, as DBOS stores it; without a JSON form it is for who waits for it here."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from crewai_dbos._dbos_seam.context import open_workflow
from crewai_dbos._journal import executions, run_scope
from crewai_dbos._setting import setting
from crewai_dbos._stored import codec, sealing
from crewai_dbos.errors import UnstorableValueError

_waiting: ContextVar[dict[str, Any] | None] = ContextVar("crewai_dbos_waiting", default=None)
"""What runs have returned to the call that is waiting for one, by their ids."""


@dataclass(frozen=True)
class Unstored:
    """Stands for something without a JSON form.

    Attributes:
        run_id: Of the run that returned it.
        why: Why it could not be stored.
    """

    run_id: str
    why: str

    def as_returned(self) -> Any:
        """What the run returned, for the call that has waited for it.

        Raises:
            UnstorableValueError: The call is another one.
        """
        returned = _waiting.get() or {}
        if self.run_id not in returned:
            raise UnstorableValueError(
                f"The run {self.run_id} is done, but what it returned was not stored: {self.why}"
            )
        return returned[self.run_id]


def awaited() -> AbstractContextManager[Any]:
    """The block waits for a run that is carried out in it."""
    return setting(_waiting, {})


def stored(result: Any) -> Any:
    """What the run returned whose workflow is open here, as DBOS is to store it."""
    context = open_workflow()
    return sealing.seal(executions.redacted(encoded(result), context))


def encoded(result: Any, known: Iterable[type] = ()) -> Any:
    """The JSON form of what the run returned whose workflow is open here.

    Args:
        result: What it returned.
        known: Classes that whoever reads it is given too.
    """
    try:
        return codec.encode(result, known)
    except (UnstorableValueError, RecursionError) as error:
        context = open_workflow()
        why = str(error)
        run_scope.warn_once(
            f"What a run returned is not stored: {why} The call that waits for the run gets it; "
            "later, and from another process, it can't be retrieved."
        )
        if (returned := _waiting.get()) is not None:
            returned[context.workflow_id] = result
        return codec.encode(Unstored(context.workflow_id, why))
