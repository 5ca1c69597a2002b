"""What a run of a crew is asked to do, as live objects and as the plain JSON that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crewai import Crew

from crewai_dbos._runs.definition import CrewDefinition
from crewai_dbos._stored import work_order
from crewai_dbos._stored.digest import digest
from crewai_dbos._stored.type_paths import type_path
from crewai_dbos._stored.work_order import TASK_MODELS
from crewai_dbos.errors import UnstorableInputError, UnstorableValueError


@dataclass(frozen=True)
class CrewWorkOrder:
    """One kickoff of a crew.

    Attributes:
        inputs: What its texts are filled with.
        input_files: Files by name, as ``Crew.kickoff`` takes them.
    """

    inputs: Mapping[str, Any] | None = None
    input_files: Mapping[str, Any] | None = None

    def digest(self) -> str:
        """Stands for what is asked, to tell orders apart that are carried out side by side."""
        return digest([self.inputs, self.input_files])

    def stored(self, definition: CrewDefinition) -> dict[str, Any]:
        """The work order as plain JSON.

        Raises:
            UnstorableInputError: Something in it, or in the crew, could not be rebuilt by another
                process.
        """
        _check_models(definition.owner)
        inputs = None if self.inputs is None else dict(self.inputs)
        fields = {"inputs": work_order.encoded("The inputs", inputs)}
        if self.input_files:
            fields["input_files"] = work_order.encoded("The input_files", dict(self.input_files))
        return work_order.written({"crew": definition.name}, fields, definition.redact)


def load(stored: Mapping[str, Any], _: CrewDefinition) -> CrewWorkOrder:
    """The live objects of a stored order.

    Raises:
        UnstorableValueError: It can't be carried out here.
    """
    work_order.check(stored, ("crew", "inputs", "input_files"))
    return CrewWorkOrder(
        inputs=work_order.field(stored, "inputs"),
        input_files=work_order.field(stored, "input_files"),
    )


def _check_models(crew: Crew) -> None:
    for number, task in enumerate(crew.tasks, 1):
        for name in TASK_MODELS:
            model = getattr(task, name, None)
            if model is None:
                continue
            try:
                type_path(model)
            except UnstorableValueError as error:
                what = task.name or number
                raise UnstorableInputError(f"{name} of task {what}: {error}") from None
