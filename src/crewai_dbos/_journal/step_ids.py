"""The step ids of new entries: past every one that is recorded or kept free.

DBOS's own counter is kept where it was when an entry was recorded, for steps that the user's
workflow makes afterwards.
"""

from __future__ import annotations

import logging
import threading

from dbos import DBOS, StepReservation

from crewai_dbos._dbos_seam.context import DBOSContext, using_context
from crewai_dbos._journal.joined_work import JoinedWork
from crewai_dbos.errors import ConcurrentRunError

logger = logging.getLogger("crewai_dbos")


class StepIds:
    """The step ids of one execution of a workflow.

    Args:
        root: DBOS's context of the workflow, whose counter this moves.
        lock: Held while an id is drawn; a record has one for all that it does.
        joined: The work that has joined the workflow.
    """

    def __init__(self, root: DBOSContext, lock: threading.RLock, joined: JoinedWork) -> None:
        self._root = root
        self._lock = lock
        self._joined = joined
        self._run_id: str = root.workflow_id
        self._last = self._drawn = root.function_id
        self._told = False

    @property
    def counter(self) -> int:
        """Where DBOS's own counter is."""
        return self._root.function_id

    def keep_free(self, step_id: int) -> None:
        """New entries come after `step_id`."""
        with self._lock:
            self._last = max(self._last, step_id)

    def reserve(self, path: str, ids: int = 1) -> StepReservation:
        """The next of `ids` consecutive step ids.

        Args:
            path: The place that they are for.
            ids: How many.

        Raises:
            ConcurrentRunError: The workflow drew one of several ids elsewhere at the same time.
            ControlSignal: The work that `path` is in has ended.
        """
        with self._lock:
            self._joined.check_open(path)
            self.check_alone()
            self.advance(self._last)
            with using_context(self._root):
                first = last = DBOS.reserve_step()
                for _ in range(ids - 1):
                    last = DBOS.reserve_step()
            self._last = self._drawn = last.step_id
        if last.step_id != first.step_id + ids - 1:
            raise ConcurrentRunError(
                f"Run {self._run_id}: the workflow started a DBOS step of its own while a run was "
                "open in it. Wait for the run first."
            )
        return first

    def advance(self, step_id: int) -> None:
        """DBOS's counter moves past `step_id`, if it is not there yet."""
        with self._lock:
            self._root.function_id = max(self._root.function_id, step_id)
            self._drawn = max(self._drawn, step_id)

    def begin(self) -> None:
        """The first work joins: what the workflow has drawn until now is in order."""
        with self._lock:
            self._drawn = self._root.function_id

    def check_alone(self) -> None:
        """Warn, once, if the workflow draws ids itself while work that has joined it is open."""
        with self._lock:
            beside = self._joined.is_any_open and self._root.function_id > self._drawn
            if not beside or self._told:
                return
            self._told = True
        logger.warning(
            "Run %s: the workflow made a DBOS step of its own while an agent was at work in "
            "it. If a crash comes between the two, the run can't tell their order and stops. "
            "Make the step before the agent's call or after it.",
            self._run_id,
        )
