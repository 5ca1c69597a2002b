"""What the API and the page do with runs and requests: with whom is allowed to, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crewai_dbos._http.auth import Action, Caller, Door
from crewai_dbos._http.definitions import Offered
from crewai_dbos._http.problems import Problem
from crewai_dbos._http.texts import is_storable
from crewai_dbos.control import Answer, Control, Request, Run
from crewai_dbos.errors import MissingDefinitionError, RunNotFoundError, UnknownRequest

MOST = 200
"""Runs or requests in one list."""

_LOOKED_THROUGH = 2000
"""Open requests that are looked through for those of a user."""

_PAGES = 20
"""Pages of runs that are looked through at a time for a text."""

_SHOWN = 50
"""Runs that are enough of what was found."""


@dataclass(frozen=True)
class Desk:
    """Runs and requests, for callers who may not see all of them.

    Attributes:
        control: Of the database.
        door: Says who may what.
        offered: What can be kicked off.
    """

    control: Control
    door: Door
    offered: Offered

    def run(self, caller: Caller, run_id: str, action: Action = "see") -> Run:
        """A run with its tree, by its whole id.

        Raises:
            RunNotFoundError: There is none, or none that they may see.
            Problem: They may not do that with it.
        """
        if not is_storable(run_id):
            raise RunNotFoundError(run_id)
        run = self.control.run(run_id)
        if run.run_id != run_id or not self.door.allows(caller, "see", run):
            raise RunNotFoundError(run_id)
        if action != "see" and not self.door.allows(caller, action, run):
            raise forbidden(action, f"run {run_id!r}")
        return run

    def runs(self, caller: Caller, **wanted: Any) -> tuple[list[Run], str | None]:
        """A page of runs, less those that they may not see, and where the next one begins."""
        page = self.control.runs(**wanted)
        return [run for run in page if self.door.allows(caller, "see", run)], page.cursor

    def search(
        self, caller: Caller, text: str, *, cursor: str | None = None, **wanted: Any
    ) -> tuple[list[Run], str | None]:
        """As `runs`, of those with `text` in their id, name, error or reason."""
        found: list[Run] = []
        for _ in range(_PAGES if text else 1):
            runs, cursor = self.runs(caller, cursor=cursor, **wanted)
            found += [run for run in runs if _has(run, text.lower())]
            if cursor is None or len(found) >= _SHOWN:
                break
        return found, cursor

    def request(self, caller: Caller, request_id: str, action: Action = "see") -> Request:
        """A request, by its whole id.

        Raises:
            UnknownRequest: There is none, or none that they may see.
            Problem: They may not answer it.
        """
        if not is_storable(request_id):
            raise UnknownRequest(request_id)
        request = self.control.request(request_id)
        if request.request_id != request_id or not self.door.allows(caller, "see", request):
            raise UnknownRequest(request_id)
        if action != "see" and not self.door.allows(caller, action, request):
            raise forbidden(action, f"request {request_id}")
        return request

    def requests(
        self,
        caller: Caller,
        *,
        audience: str | None = None,
        run_id: str | None = None,
        only_open: bool = True,
        limit: int = 50,
    ) -> list[Request]:
        """Requests that they may see, the oldest first."""
        found = self.control.requests(
            audience=audience, run_id=run_id, only_open=only_open, limit=_LOOKED_THROUGH
        )
        seen = (each for each in found if self.door.allows(caller, "see", each))
        return [each for each, _ in zip(seen, range(limit), strict=False)]

    def answer(self, caller: Caller, request_id: str, answer: Answer, by: str | None) -> Request:
        """Answer a request. Returns it as it is then."""
        self.request(caller, request_id, "answer")
        self.control.answer(request_id, answer, by=caller.name(by))
        return self.control.request(request_id)

    def start(
        self,
        caller: Caller,
        definition: str | None,
        inputs: Mapping[str, Any] | None,
        run_id: str | None = None,
        queue: str | None = None,
    ) -> str:
        """Kick off. Returns the id of the run."""
        return self.offered.start(self.definition(caller, definition), inputs, run_id, queue)

    def definition(self, caller: Caller, name: str | None) -> str:
        """The name of the definition that is meant.

        Raises:
            MissingDefinitionError: There is none, or they may not kick it off.
        """
        chosen = self.offered.chosen(name)
        if not self.door.allows(caller, "start", chosen):
            raise MissingDefinitionError(f"There is no definition {chosen!r} here.")
        return chosen


def _has(run: Run, text: str) -> bool:
    texts = (run.run_id, run.definition, run.error, run.reason)
    return any(text in each.lower() for each in texts if each)


def forbidden(action: Action, what: str) -> Problem:
    """That somebody may see something, and no more."""
    return Problem(403, f"You may see {what}, but not {action} it.", "forbidden")
