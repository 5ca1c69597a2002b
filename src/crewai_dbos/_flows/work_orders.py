"""What a run of a flow is asked to do, as live objects and as the plain JSON that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from crewai_dbos._flows.state.changes import classes
from crewai_dbos._runs.definition import FlowDefinition
from crewai_dbos._stored import work_order
from crewai_dbos._stored.digest import digest


@dataclass(frozen=True)
class FlowWorkOrder:
    """One kickoff of a flow, or one turn of a conversation.

    Attributes:
        inputs: What its state is filled with.
        input_files: Files by name, as ``Flow.kickoff`` takes them.
        restore_from_state_id: The id of a state kept by ``@persist`` to begin with.
        turn: The arguments of ``Flow.handle_turn``, if it is a turn.
        state: The state that the turn before it ended with.
    """

    inputs: Mapping[str, Any] | None = None
    input_files: Mapping[str, Any] | None = None
    restore_from_state_id: str | None = None
    turn: Mapping[str, Any] | None = None
    state: Any = None

    def digest(self) -> str:
        """Stands for what is asked, to tell orders apart that are carried out side by side."""
        asked = [self.inputs, self.input_files, self.restore_from_state_id]
        return digest(asked if self.turn is None else [*asked, self.turn])

    def stored(self, definition: FlowDefinition) -> dict[str, Any]:
        """The work order as plain JSON.

        Raises:
            UnstorableInputError: Something in it could not be rebuilt by another process.
        """
        asked = self.arguments() if self.turn is None else {"turn": self.turn, "state": self.state}
        known = classes(definition.owner)
        encoded = {
            name: work_order.encoded(f"The {name}", value, known) for name, value in asked.items()
        }
        return work_order.written({"flow": definition.name}, encoded, definition.redact)

    def arguments(self) -> dict[str, Any]:
        """These as `Flow.kickoff` takes them."""
        return {
            "inputs": None if self.inputs is None else dict(self.inputs),
            "input_files": None if self.input_files is None else dict(self.input_files),
            "restore_from_state_id": self.restore_from_state_id,
        }


def load(stored: Mapping[str, Any], definition: FlowDefinition) -> FlowWorkOrder:
    """The live objects of a stored order.

    Raises:
        UnstorableValueError: It can't be carried out here.
    """
    known = classes(definition.owner)
    asked_for = [field.name for field in fields(FlowWorkOrder)]
    work_order.check(stored, ("flow", *asked_for))
    return FlowWorkOrder(**{name: work_order.field(stored, name, known) for name in asked_for})
