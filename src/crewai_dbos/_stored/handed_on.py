"""That a run was taken over from a worker that is gone: said in its workflow's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crewai_dbos._stored import names


@dataclass(frozen=True)
class HandedOn:
    """The last time that a run was taken over.

    Attributes:
        worker: The executor id of the worker that it was under.
        at: When, in milliseconds since 1970.
    """

    worker: str
    at: int

    def as_attributes(self) -> dict[str, Any]:
        """The attributes that say it, beside those that the run has."""
        return {names.HANDED_ON_ATTRIBUTE: {"from": self.worker, "ms": self.at}}


def handed_on_in(attributes: Mapping[str, Any], created_ms: int) -> HandedOn | None:
    """What the attributes of a run say of it; None if nothing, or nothing of this run.

    Args:
        created_ms: When the run was created: DBOS's forks have the attributes of another.
    """
    said = attributes.get(names.HANDED_ON_ATTRIBUTE)
    if not isinstance(said, Mapping):
        return None
    worker, at = said.get("from"), said.get("ms")
    # The clock of a database may have whole seconds only.
    if not isinstance(worker, str) or type(at) is not int or at // 1000 < created_ms // 1000:
        return None
    return HandedOn(worker, at)
