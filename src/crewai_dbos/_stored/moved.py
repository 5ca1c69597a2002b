"""That a run was moved to another application version: said in its workflow's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crewai_dbos import _command_lines
from crewai_dbos._stored import names


@dataclass(frozen=True)
class Moved:
    """The last time that a run was moved.

    Attributes:
        before, after: The application versions that it was of, and is of.
        by: Who has moved it.
        at: When, in milliseconds since 1970.
    """

    before: str
    after: str
    by: str
    at: int


def with_moved(attributes: Mapping[str, Any], moved: Moved) -> dict[str, Any]:
    """The attributes, and that the run was moved."""
    said = {"from": moved.before, "to": moved.after, "by": moved.by, "ms": moved.at}
    return {**attributes, names.MOVED_ATTRIBUTE: said}


def way_back(run_id: str, attributes: Mapping[str, Any] | None, version: str | None) -> str | None:
    """The command that moves a run back which does not fit the code of the version it is of.

    Returns:
        None if it was not moved there.
    """
    said = (attributes or {}).get(names.MOVED_ATTRIBUTE)
    if not isinstance(said, Mapping) or version is None or said.get("to") != version:
        return None
    before = said.get("from")
    if not isinstance(before, str):
        return None
    return _command_lines.move(run_id, before)
