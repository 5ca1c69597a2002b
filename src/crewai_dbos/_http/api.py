"""The endpoints about runs and requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response
from starlette.concurrency import run_in_threadpool

from crewai_dbos._http import events, paths, shapes, trees
from crewai_dbos._http.guarding import Asking
from crewai_dbos._http.problems import Problem, documented
from crewai_dbos._http.runs import MOST, ScopedControl
from crewai_dbos._http.texts import Name, sendable
from crewai_dbos.control import Run, State

Limit = Annotated[int, Query(ge=1, le=MOST)]
RunId = Annotated[str, Path(description="The DBOS workflow id of the run.", max_length=500)]
RequestId = Annotated[str, Path(max_length=100)]


def add(router: APIRouter, scoped: ScopedControl) -> None:
    """Add the endpoints to `router`."""
    _add_runs(router, scoped)
    _add_requests(router, scoped)


def _add_runs(router: APIRouter, scoped: ScopedControl) -> None:
    known = documented(404)
    changing = documented(404, 409)

    @router.post("/runs", status_code=202, responses=documented(404, 409, 501))
    def start(
        body: shapes.Start,
        caller: Asking,
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> shapes.Started:
        """Begin a run. Sent again with the same `run_id` or Idempotency-Key, it is that run."""
        run_id = one_id(body.run_id, idempotency_key)
        return shapes.Started(
            run_id=scoped.start(caller, body.definition, body.inputs, run_id, body.queue)
        )

    @router.get("/runs", responses=documented())
    def runs(
        caller: Asking,
        definition: Annotated[Name | None, Query()] = None,
        state: State | None = None,
        kind: Annotated[Name | None, Query()] = None,
        since: datetime | None = None,
        limit: Limit = 50,
        cursor: Annotated[Name | None, Query()] = None,
    ) -> shapes.Runs:
        """Runs, the newest first. Those that you may not see are left out of a page."""
        found, following = scoped.runs(
            caller,
            definition=definition,
            state=state,
            kind=kind,
            since=_in_range(since),
            limit=limit,
            cursor=cursor,
        )
        return shapes.Runs(runs=found, cursor=following)

    # An id may have slashes in it, so what follows one is looked for first.

    @router.get(f"/runs/{paths.RUN}/tree", responses=known)
    def tree(
        run_id: RunId,
        caller: Asking,
        at: Annotated[
            Name | None, Query(description="The path of a node: only what is inside.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=trees.MOST)] = trees.USUAL,
    ) -> trees.Tree:
        """A run with what it has done: tasks, agents, methods and calls."""
        return trees.tree(scoped.run(caller, run_id), at, limit)

    @router.get(f"/runs/{paths.RUN}/result", responses=known)
    def result(run_id: RunId, caller: Asking) -> shapes.Whole:
        """A run with what it has returned."""
        run = scoped.run(caller, run_id)
        return shapes.Whole(
            run=replace(run, children=()), result=sendable(scoped.control.result_of(run_id))
        )

    @router.get(f"/runs/{paths.RUN}/cost", responses=known)
    def cost(run_id: RunId, caller: Asking) -> shapes.CostShape:
        """What the LLM requests of a run have cost until now."""
        scoped.run(caller, run_id)
        return shapes.CostShape.of(scoped.control.cost_of(run_id))

    @router.get(
        f"/runs/{paths.RUN}/events",
        response_class=Response,
        responses={
            **known,
            200: {
                "description": "Events, each with its number as the id.",
                "content": {"text/event-stream": {"schema": events.SCHEMA}},
            },
        },
    )
    async def follow(
        run_id: RunId,
        caller: Asking,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """What happens in a run of a definition with `events=True`, until it has ended."""
        number = events.after(last_event_id, after)
        await run_in_threadpool(scoped.run, caller, run_id)
        return events.stream(scoped.control, run_id, number)

    @router.post(f"/runs/{paths.RUN}/cancel", status_code=204, responses=changing)
    def cancel(run_id: RunId, caller: Asking, body: shapes.Cancel | None = None) -> None:
        """Cancel a run; of a batch its items."""
        given = body or shapes.Cancel()
        scoped.run(caller, run_id, "cancel")
        scoped.control.cancel(run_id, reason=given.reason, by=caller.name(given.by))

    @router.post(f"/runs/{paths.RUN}/resume", status_code=204, responses=changing)
    def resume(run_id: RunId, caller: Asking, body: shapes.Resume | None = None) -> None:
        """Let a run go on that was cancelled or stopped."""
        scoped.run(caller, run_id, "resume")
        given = body or shapes.Resume()
        scoped.control.resume(run_id, timeout=given.timeout, even_if_forked=given.even_if_forked)

    @router.post(f"/runs/{paths.RUN}/fork", status_code=202, responses=changing)
    def fork(
        run_id: RunId,
        caller: Asking,
        body: shapes.Fork | None = None,
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> shapes.Started:
        """Begin a new run with what this one has recorded, less what depends on a place.

        Sent again with the same `run_id` or Idempotency-Key, it is that run.
        """
        given = body or shapes.Fork()
        made = scoped.fork(
            caller,
            run_id,
            given.at,
            edit=given.edit,
            by=given.by,
            inputs=given.inputs,
            version=given.version,
            fork_id=one_id(given.run_id, idempotency_key),
            even_if_forked=given.even_if_forked,
        )
        return shapes.Started(run_id=made)

    @router.get(f"/runs/{paths.RUN}", responses=known)
    def run(run_id: RunId, caller: Asking) -> Run:
        """How a run stands."""
        return replace(scoped.run(caller, run_id), children=())


def _add_requests(router: APIRouter, scoped: ScopedControl) -> None:
    @router.get("/requests", responses=documented(404))
    def requests(
        caller: Asking,
        audience: Annotated[Name | None, Query()] = None,
        run_id: Annotated[Name | None, Query()] = None,
        after: Annotated[
            str | None, Query(max_length=100, description="The id of the last of the page before.")
        ] = None,
        only_open: bool = True,
        limit: Limit = 50,
    ) -> shapes.Requests:
        """What people are asked, the oldest first."""
        found = scoped.requests(
            caller, audience=audience, run_id=run_id, after=after, only_open=only_open, limit=limit
        )
        return shapes.Requests(requests=[shapes.RequestShape.of(each) for each in found])

    @router.get("/requests/{request_id}", responses=documented(404))
    def request(request_id: RequestId, caller: Asking) -> shapes.RequestShape:
        """One request, open or not."""
        return shapes.RequestShape.of(scoped.request(caller, request_id))

    @router.post("/requests/{request_id}/answer", responses=documented(404, 409, 410))
    def answer(
        request_id: RequestId, body: shapes.AnswerBody, caller: Asking
    ) -> shapes.RequestShape:
        """Answer a request, once. `by` is taken from programs with a token only."""
        answered: Any = scoped.answer(caller, request_id, body.answer(), body.by)
        return shapes.RequestShape.of(answered)


def one_id(in_body: str | None, in_header: str | None) -> str | None:
    """The id that a run is to have.

    Raises:
        Problem: Two are given.
    """
    if None not in (in_body, in_header) and in_body != in_header:
        raise Problem(422, "Two ids are given, one as Idempotency-Key. Send one.", "invalid")
    return in_body or in_header


def _in_range(when: datetime | None) -> datetime | None:
    """`when`, if it is a time that a machine can count from."""
    if when is None:
        return None
    if not 1970 <= when.year < 9999:
        raise Problem(422, "since is a time after 1970.", "invalid")
    return when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)
