"""The ids of a crew and its tasks, by which handlers of crewAI's events know them.

They are those of the user's objects when the run began, also on recovery, where the user's objects
are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from crewai import Crew

_FIELD = "ids"


@dataclass
class Ids:
    """The ids of one run's crew.

    Attributes:
        crew: Of the crew; None of a run that an earlier release began, which has its own.
        tasks: Of its tasks, in their order.
    """

    crew: UUID | None = None
    tasks: list[UUID | None] = field(default_factory=list)

    @classmethod
    def of(cls, crew: Crew) -> Ids:
        """Those of the user's `crew`."""
        return cls(crew.id, [task.id for task in crew.tasks])

    def of_task(self, number: int) -> UUID | None:
        """That of the `number`-th task, counting from 1; None if it had none when the run began."""
        return self.tasks[number - 1] if number <= len(self.tasks) else None

    def as_json(self) -> dict[str, Any]:
        """As they are stored beside the definition that the run began with."""
        return {_FIELD: [str(self.crew), *map(str, self.tasks)]}

    def forget_if(self, is_recorded: bool) -> None:
        """A run that has begun has those that are recorded, or none."""
        if is_recorded:
            self.crew, self.tasks = None, []

    def take(self, extra: Mapping[str, Any]) -> None:
        """Be those that are stored in `extra`. A user's `redact` may have changed them."""
        stored = extra.get(_FIELD)
        if isinstance(stored, list) and stored:
            self.crew, *self.tasks = map(_id, stored)


def _id(stored: Any) -> UUID | None:
    try:
        return UUID(stored)
    except (ValueError, TypeError, AttributeError):
        return None
