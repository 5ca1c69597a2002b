"""Who has cancelled a run, and why: what is said of it in the attributes of its workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crewai_dbos._stored import names

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Cancelled:
    """That a run was cancelled.

    Attributes:
        at: When, in milliseconds since 1970.
        by: Who has done it; None if that is not known.
        reason: Why; None if that was not said.
        queue: What the run was to be taken from, or had been; None for no queue of the user's.
        batch: The batch that it was cancelled with, as an item of that.
    """

    at: int
    by: str | None = None
    reason: str | None = None
    queue: str | None = None
    batch: str | None = None


def said_in(attributes: Attributes | None) -> dict[str, Any]:
    """What the package says of a run."""
    found = (attributes or {}).get(names.ATTRIBUTE)
    return found if isinstance(found, dict) else {}


def with_cancelled(
    attributes: Attributes, cancelled: Cancelled, seal: Callable[[Any], Any]
) -> dict[str, Any]:
    """The attributes, and that the run was cancelled.

    Args:
        seal: Writes as the application does.
    """
    said = {name: value for name, value in asdict(cancelled).items() if value is not None}
    before = said_in(attributes)
    kept = {name: item for name, item in before.items() if name not in _OTHER_ENDS}
    if "stopped" in before:
        kept[names.STOPPED_BEFORE] = before["stopped"]
    note = {**kept, names.CANCELLED: seal(said)}
    return {**attributes, names.ATTRIBUTE: note}


_OTHER_ENDS = ("stopped", "error", "budget", "waiting")
"""Why it did not go on before."""


def without_notes(attributes: Attributes) -> dict[str, Any]:
    """The attributes, without what the package says of the run."""
    return {name: value for name, value in attributes.items() if name != names.ATTRIBUTE}


def cancelled_in(attributes: Attributes | None, opened: Callable[[Any], Any]) -> Cancelled | None:
    """What is said there of a cancel; None if nothing is.

    Args:
        opened: Reads what the application has written.

    Raises:
        SealedError: It can't.
    """
    said = opened(said_in(attributes).get(names.CANCELLED))
    if not isinstance(said, dict) or type(said.get("at")) is not int:
        return None
    texts = {
        name: said[name]
        for name in ("by", "reason", "queue", "batch")
        if isinstance(said.get(name), str)
    }
    return Cancelled(said["at"], **texts)
