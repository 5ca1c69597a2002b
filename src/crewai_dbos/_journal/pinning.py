"""The position that DBOS sees in a run: every step id it hands out to the user's code is *pinned*.

A pinned id is found again on recovery by the place in which it was drawn, and not by the order in
which threads happen to arrive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from crewai_dbos._dbos_seam.context import DBOSContext, current_context
from crewai_dbos.errors import CrewaiDbosError, DefinitionError


class Pins(NamedTuple):
    """What pins the ids of one place.

    Attributes:
        draw: Returns the first of that many consecutive step ids.
        check: Stops the run if the step of that id was recorded under another name than this one.
        fail: Ends the run.
    """

    draw: Callable[[int], int]
    check: Callable[[int, str], None]
    fail: Callable[[BaseException], NoReturn]


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
    # up and copies; a child workflow (`DBOSContext.create_start_workflow_child`) and the result of
    # one (`SystemDatabase.record_get_result`) do `ctx.function_id += 1`. `DBOS.patch` looks at the
    # number first, so it is refused.

    @property
    def function_id(self) -> int:
        return int(self.__dict__["function_id"])

    @function_id.setter
    def function_id(self, value: int) -> None:
        # Below it, another thread has drawn one since the number was read.
        if not 0 < value <= self.function_id + 1:
            self._pins.fail(
                CrewaiDbosError(
                    f"DBOS set its step counter from {self.function_id} to {value}, where "
                    "crewai-dbos knows it to count up by one. Use a release of crewai-dbos that "
                    "was made for this DBOS."
                )
            )
        self.__dict__["function_id"] = self._pins.draw(1)

    def refuse(self, what: str) -> NoReturn:
        """End the run, as something was called in it that DBOS can't do there."""
        self._pins.fail(
            DefinitionError(
                f"{what} was called inside a run, where it can't tell an old run from a new one. "
                "Call it in your own workflow, before the agent, crew or flow, and pass on what it "
                "says."
            )
        )

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


def refusing_in_runs(patch: Any) -> Any:
    """A class method of DBOS, `DBOS.patch` or one like it, which is of no use inside a run.

    It asks for what is recorded under the next step id, and that of a run is not known before it is
    drawn.
    """

    @functools.wraps(patch.__func__)
    def patched(cls: Any, *args: Any, **kwargs: Any) -> Any:
        position = current_context()
        if isinstance(position, PinningContext):
            position.refuse(f"DBOS.{patch.__func__.__name__}")
        return patch.__func__(cls, *args, **kwargs)

    return classmethod(patched)
