"""How far one run of a flow has come: what its methods have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from crewai.flow.flow import Flow

from crewai_dbos._crewai_seam.flow import add_usage, definition_of, now_of, set_now
from crewai_dbos._flows import interception
from crewai_dbos._flows.state.changes import FlowState, declared
from crewai_dbos._flows.state.tracking import Execution
from crewai_dbos._flows.turns import Turns
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.drift import drift
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.scope import Scope
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._stored import names
from crewai_dbos._stored.usage import counted

logger = logging.getLogger("crewai_dbos")

_END = re.compile(rf"method:[^/]+#\d+/({names.METHOD_END}|{names.FEEDBACK})#1")

depth: ContextVar[int] = ContextVar("crewai_dbos_depth", default=0)
"""How many methods led to the one at work."""


class FlowRun:
    """What the methods of one run of a flow have in common.

    Args:
        flow: The flow of the run.
        scope: Where in the run it is.
        options: How the calls of what its methods use are recorded.
    """

    def __init__(self, flow: Flow[Any], scope: Scope, options: AgentOptions) -> None:
        self.flow = flow
        self.scope = scope
        self.objects = RunObjects(scope)
        self.interceptor = interception.Interceptor(self.objects, options)
        self._at_work: dict[str, Execution] = {}
        self._begun = False
        self.before: dict[str, Any] = {}
        self._declared = declared(flow)
        found = scope.entries()
        self._ends = {name: entry for name, entry in found if _END.fullmatch(name)}
        self.turns = Turns(entry.step_id for entry in self._ends.values())

    def begin(self) -> None:
        """Before the first method: the state is the one that the run began with."""
        if self._begun:
            return
        self._begun = True
        self.state = FlowState(self.flow, self._declared)
        call = Call(names.STATE, kind="state", known=self.state.known)
        began = self.scope.run(call, lambda: {**self.state.initial(), "now": now_of(self.flow)})
        began = dict(began)
        self.state.begin(began)
        set_now(self.flow, began["now"])

    def end(self) -> None:
        """The engine has ended, whatever the reason."""
        if not self._begun:
            return
        self.state.release()
        if self.scope.ended_by is not None:
            return
        if left := self._left():
            missed = ", ".join(left)
            logger.warning(
                "Run %s: recorded, but not executed again: %s.", self.scope.run_id, missed
            )
        self.scope.pass_over()
        # crewAI counts what its LLMs tell of, and one that is answered from the record is silent.
        for _, entry in self.scope.entries():
            add_usage(self.flow, counted({"usage": self.scope.usage_of(entry)}))

    def _left(self) -> list[str]:
        left = set(self.turns.left())
        return [name for name, entry in self._ends.items() if entry.step_id in left]

    def enter(self, execution: Execution) -> None:
        """A method is at work from here on."""
        self._at_work[execution.path] = execution
        self.turns.enter()

    def leave(self, execution: Execution, ends: Iterable[int]) -> None:
        """A method is at work no more, and the engine has heard of its `ends`, by step id."""
        self.turns.leave()
        self._at_work.pop(execution.path, None)
        for step_id in ends:
            self.turns.give(step_id, depth.get())

    async def turn(self, step_id: int, path: str) -> None:
        """Wait until the engine has heard of every end that comes before this one.

        Raises:
            ControlSignal: One of them does not come.
        """
        self._check(await self.turns.take(step_id), path)

    async def caught_up(self, path: str) -> None:
        """Wait until the engine has heard of every end that is recorded.

        Raises:
            ControlSignal: One of them does not come.
        """
        self._check(await self.turns.caught_up(), path)

    def _check(self, came: bool, path: str) -> None:
        if not came:
            left = self._left()
            first = left[0] if left else "another method"
            places = (each.rpartition("/")[0] for each in left)
            self.scope.fail(
                drift(
                    f"Run {self.scope.run_id}: {first} is recorded to have ended before {path}, "
                    "and now it is not executed.",
                    self.scope.onward(*dict.fromkeys(places)),
                )
            )

    def others(self, execution: Execution) -> list[Execution]:
        """The methods that are at work beside `execution`."""
        return [other for other in self._at_work.values() if other is not execution]

    def is_final(self, entry: Entry, field: str) -> bool:
        """Whether what `entry` says of a field holds nothing of a method that will run again."""
        beside = self.scope.extra_of(entry).get("unsettled", {}).get(field, ())
        ends = [self.recorded_end(path, names.METHOD_END) for path in beside]
        return all(end is not None and self.is_final(end, field) for end in ends)

    def is_reviewed(self, method: str) -> bool:
        """Whether a person is asked about what the method returned."""
        return definition_of(self.flow).methods[method].human_feedback is not None

    def recorded_end(self, path: str, what: str) -> Entry | None:
        """The entry `what` of the method at `path`, if it was recorded when the run was opened."""
        return self._ends.get(f"{path.rpartition('/')[2]}/{what}#1")
