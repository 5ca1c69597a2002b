"""What the API and the page do with runs and requests: with whom is allowed to, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from crewai_dbos._http import cursors, trees
from crewai_dbos._http.auth import Access, Action, Caller
from crewai_dbos._http.definitions import Definitions
from crewai_dbos._http.problems import Problem
from crewai_dbos._stored.forms import is_storable
from crewai_dbos.control import Answer, Control, Feedback, Node, Request, Run
from crewai_dbos.errors import RunNotFoundError, SealedError, UnknownRequest

MOST = 200
"""Runs or requests in one list."""

_PAGES_OF_REQUESTS = 50
"""Pages of requests that are looked through for those of a user."""

_PAGES = 20
"""Pages of runs that are looked through at a time for a text."""

_SHOWN = 50
"""Runs that are enough of what was found."""


@dataclass(frozen=True)
class ScopedControl:
    """Runs and requests, for callers who may not see all of them.

    Attributes:
        control: Of the database.
        access: Says who may what.
        definitions: What can be kicked off.
        queue: Where a kickoff goes that names no queue.
    """

    control: Control
    access: Access
    definitions: Definitions
    queue: str | None = None

    def run(self, caller: Caller, run_id: str, action: Action = "see") -> Run:
        """A run with its tree, by its whole id.

        Raises:
            RunNotFoundError: There is none, or none that they may see.
            Problem: They may not do that with it.
        """
        if not is_storable(run_id):
            raise RunNotFoundError(run_id)
        try:
            run = self.control.run(run_id)
        except RunNotFoundError:
            # Without a word on the ids that begin so.
            raise RunNotFoundError(run_id) from None
        if run.run_id != run_id or not self.access.allows(caller, "see", run):
            raise RunNotFoundError(run_id)
        if action != "see" and not self.access.allows(caller, action, run):
            raise forbidden(action, f"run {run_id!r}")
        return run

    def last_event(self, run_id: str) -> int:
        """The number of the last event of a run; 0 if there is none, or no such run."""
        try:
            return self.control.last_event(run_id) if is_storable(run_id) else 0
        except RunNotFoundError:
            return 0

    def runs(self, caller: Caller, **wanted: Any) -> tuple[list[Run], str | None]:
        """A page of runs, less those that they may not see, and where the next one begins."""
        if (cursor := wanted.get("cursor")) is not None:
            wanted = {**wanted, "cursor": cursors.opened(self.control, cursor)}
        page = self.control.runs(**wanted)
        seen = [run for run in page if self.access.allows(caller, "see", run)]
        if page.cursor is None or seen[-1:] == [*page][-1:]:
            return seen, page.cursor
        return seen, cursors.closed(page.cursor)

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
        try:
            request = self.control.request(request_id)
        except UnknownRequest:
            raise UnknownRequest(request_id) from None
        if request.request_id != request_id or not self.access.allows(caller, "see", request):
            raise UnknownRequest(request_id)
        if action != "see" and not self.access.allows(caller, action, request):
            raise forbidden(action, f"request {request_id}")
        return request

    def requests(
        self,
        caller: Caller,
        *,
        audience: str | None = None,
        run_id: str | None = None,
        after: str | None = None,
        only_open: bool = True,
        limit: int = 50,
    ) -> list[Request]:
        """Requests that they may see, the oldest first.

        Raises:
            UnknownRequest: There is no request `after`, or none that they may see.
        """
        if after is not None:
            with suppress(SealedError):
                self.request(caller, after)
        seen: list[Request] = []
        size = self.access.size_of_page(limit)
        for _ in range(_PAGES_OF_REQUESTS):
            found = self.control.requests(
                audience=audience,
                audiences=self.access.audiences_of(caller),
                run_id=run_id,
                after=after,
                only_open=only_open,
                limit=size,
                even_sealed=True,
            )
            seen += [each for each in found if self.access.allows(caller, "see", each)]
            if len(seen) >= limit or len(found) < size:
                break
            after = found[-1].request_id
        return seen[:limit]

    def requests_of(self, caller: Caller, run_id: str) -> list[Request]:
        """Requests of a run: those that can be answered, and others as far as they are few."""
        still_open = self.requests(caller, run_id=run_id, limit=_SHOWN * 2)
        every = self.requests(caller, run_id=run_id, only_open=False, limit=_SHOWN * 2)
        known = {each.request_id for each in every}
        return [*every, *(each for each in still_open if each.request_id not in known)]

    def answer(self, caller: Caller, request_id: str, answer: Answer, by: str | None) -> Request:
        """Answer a request. Returns it as it is then."""
        if isinstance(answer, Feedback) and not answer.text.strip():
            # Which would approve.
            raise Problem(422, "Say what is to be better, or approve.", "invalid")
        self.request(caller, request_id, "answer")
        self.control.answer(request_id, answer, by=caller.name(by))
        return self.control.request(request_id)

    def asked_in(self, run: Run) -> dict[str, Request]:
        """What people were asked, by path: in this run, and in those that it is a fork of."""
        found: dict[str, Request] = {}
        run_id: str | None = run.run_id
        while run_id is not None:
            asked = self.control.requests(run_id=run_id, only_open=False, even_sealed=True)
            found = {**{each.path: each for each in asked}, **found}
            run_id = run.forked_from if run_id == run.run_id else self._origin(run_id)
        return found

    def _origin(self, run_id: str) -> str | None:
        """The run that this one is a fork of, if it is there."""
        try:
            found = self.control.run(run_id)
        except RunNotFoundError:
            return None
        return found.forked_from if found.run_id == run_id else None

    def may_read(self, caller: Caller, run: Run, node: Node) -> bool:
        """Whether they may see what a call returned: what a person said is for their audience."""
        if node.kind != "person":
            return True
        return self._may(caller, "see", self.asked_in(run).get(node.path))

    def fork(
        self,
        caller: Caller,
        run_id: str,
        at: str | Sequence[str] | None = None,
        *,
        edit: Mapping[str, Any] | None = None,
        by: str | None = None,
        **more: Any,
    ) -> str:
        """Fork a run. Returns the id of the fork.

        Raises:
            Problem: They may not, or they would say for somebody else what a person has decided.
        """
        run = self.run(caller, run_id, "fork")
        if edit:
            places = {self.control.place_of(run_id, place): place for place in edit}
            asked = self.asked_in(run)
            people = [node.path for node in trees.every(run.children) if node.kind == "person"]
            for path in people:
                for place, given in places.items():
                    is_in = path == place or path.startswith(f"{place}/")
                    if is_in and not self._may(caller, "answer", asked.get(path)):
                        raise Problem(
                            403,
                            f"A person was asked in {given!r}, and you may not answer that, so "
                            "you may not edit it either.",
                            "forbidden",
                        )
        return self.control.fork(run_id, at, edit=edit, by=caller.name(by), **more)

    def _may(self, caller: Caller, action: Action, asked: Request | None) -> bool:
        """Whether they may do that with a request, which may be deleted by now."""
        if asked is None:
            return self.access.allows_all(caller)
        return self.access.allows(caller, action, asked)

    def start(
        self,
        caller: Caller,
        definition: str | None,
        inputs: Mapping[str, Any] | None,
        run_id: str | None = None,
        queue: str | None = None,
    ) -> str:
        """Kick off. Returns the id of the run.

        Raises:
            Problem: The id is that of a run that they may not see.
        """
        chosen = self.definition(caller, definition)
        run_id = run_id or str(uuid4())
        # Asked of the control, which does not wait for a database that is away, as DBOS does.
        if self.control.status_of(run_id) is not None:
            try:
                self.run(caller, run_id)
            except RunNotFoundError:
                raise Problem(
                    409, f"The id {run_id!r} can't be used. Take another.", "run-conflict"
                ) from None
        return self.definitions.start(chosen, inputs, run_id, queue or self.queue)

    def definition(self, caller: Caller, name: str | None) -> str:
        """The name of the definition that is meant.

        Raises:
            MissingDefinitionError: There is none, or they may not kick it off.
        """
        theirs = [n for n in self.definitions.names() if self.access.allows(caller, "start", n)]
        return self.definitions.chosen(name, theirs)


def _has(run: Run, text: str) -> bool:
    texts = (run.run_id, run.definition, run.error, run.reason)
    return any(text in each.lower() for each in texts if each)


def forbidden(action: Action, what: str) -> Problem:
    """That somebody may see something, and no more."""
    return Problem(403, f"You may see {what}, but not {action} it.", "forbidden")
