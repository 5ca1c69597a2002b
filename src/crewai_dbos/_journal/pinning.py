"""The position that DBOS sees in a run: every step id it hands out to the user's code is *pinned*.

A pinned id is found again on recovery by the place in which it was drawn, and not by the order in
which threads happen to arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from crewai_dbos._dbos_seam import DBOSContext
from crewai_dbos._signals import ControlSignal
from crewai_dbos.errors import CrewaiDbosError


class Pins(NamedTuple):
    """What pins the ids of one place.

    Attributes:
        draw: Returns the first of that many consecutive step ids.
        check: Stops the run if the step of that id was recorded under another name than this one.
    """

    draw: Callable[[int], int]
    check: Callable[[int, str], None]


class PinningContext(DBOSContext):
    """A copy of the workflow's context, except that every step id it hands out is pinned."""

    _pins: Pins

    @classmethod
    def of(cls, root: DBOSContext, pins: Pins) -> PinningContext:
        """The position of a place in the workflow of `root`."""
        context = cls.__new__(cls)
        context.__dict__.update(root.__dict__)
        context.__dict__["_pins"] = pins
        return context

    # DBOS 3.4.0 draws an id of an open workflow in two ways. `DBOSContext.snapshot_step_ctx` counts
    # up and copies; a child workflow (`DBOSContext.create_start_workflow_child`), the result of one
    # (`SystemDatabase.record_get_result`) and `DBOS.patch` do `ctx.function_id += 1`.

    @property
    def function_id(self) -> int:
        return int(self.__dict__["function_id"])

    @function_id.setter
    def function_id(self, value: int) -> None:
        if value != self.function_id + 1:
            raise ControlSignal(
                CrewaiDbosError(
                    f"DBOS set its step counter from {self.function_id} to {value}, where "
                    "crewai-dbos knows it to count up by one. Use a release of crewai-dbos that "
                    "was made for this DBOS."
                )
            )
        self.__dict__["function_id"] = self._pins.draw(1)

    def snapshot_step_ctx(self, reserve_sleep_id: bool = False) -> DBOSContext:
        first = self._pins.draw(2 if reserve_sleep_id else 1)
        position = DBOSContext.__new__(DBOSContext)
        position.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_pins"})
        position.function_id = first - 1
        snapshot = position.snapshot_step_ctx(reserve_sleep_id)
        checked = _PinnedStepContext.__new__(_PinnedStepContext)
        checked.__dict__.update(snapshot.__dict__)
        checked.__dict__["_check"] = self._pins.check
        return checked


class _PinnedStepContext(DBOSContext):
    """A pinned step: DBOS compares its name on recovery, and we do so first.

    DBOS's own error is an `Exception`, which crewAI would hand to the model as text.
    """

    _check: Callable[[int, str], None]

    def start_step(self, fid: int, attributes: Any) -> None:
        self._check(fid, attributes["name"])
        super().start_step(fid, attributes)
