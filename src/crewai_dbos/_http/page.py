"""The page: what there is to see of runs and requests, and the forms to do something about them.

It is made here as HTML, and works without JavaScript.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from importlib import resources
from typing import get_args
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid5

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from crewai_dbos._http import events, forms, paths, request_page, run_page, sessions, trees
from crewai_dbos._http.auth import Caller
from crewai_dbos._http.problems import Problem, problem_of
from crewai_dbos._http.rendering import back, base_of, caller_of, check, form_of, render, shown_by
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos._stored.forms import is_storable
from crewai_dbos.control import Request as Asked
from crewai_dbos.control import State
from crewai_dbos.errors import CrewaiDbosError

STATES: tuple[str, ...] = get_args(State)
SINCE = {"1h": "the last hour", "1d": "the last day", "7d": "the last week"}
_HOURS = {"1h": 1, "1d": 24, "7d": 168}


def page(scoped: ScopedControl, max_body: int) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(route_class=shown_by(scoped, max_body), include_in_schema=False)
    _add_reading(router, scoped)
    _add_doing(router, scoped)
    _add_login(router, scoped)
    return router


# Reading -------------------------------------------------------------------------------


def _add_reading(router: APIRouter, scoped: ScopedControl) -> None:
    @router.get("/", name="crewai_dbos_runs")
    def runs(request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in _FILTERS}
        if not all(map(is_storable, request.query_params.values())):
            raise Problem(422, "That is no filter.", "invalid")
        found, cursor = scoped.search(
            caller_of(request),
            asked["text"],
            definition=asked["definition"] or None,
            state=asked["state"] or None,
            since=_since(asked["since"]),
            cursor=request.query_params.get("cursor"),
        )
        open_requests = scoped.requests(caller_of(request), limit=100)
        waiting_in: dict[str, list[Asked]] = {}
        for each in open_requests:
            waiting_in.setdefault(each.run_id, []).append(each)
        return render(
            request,
            "runs.html",
            runs=found,
            asked=asked,
            cursor=cursor,
            states=STATES,
            since=SINCE,
            waiting=len(open_requests),
            waiting_in=waiting_in,
        )

    @router.get("/requests")
    def requests(request: Request) -> Response:
        found = scoped.requests(caller_of(request), limit=100)
        return render(request, "requests.html", requests=found)

    @router.get("/request/{request_id}")
    def one_request(request: Request, request_id: str) -> Response:
        caller = caller_of(request)
        found = scoped.request(caller, request_id)
        around = request_page.around(scoped, caller, found)
        fields = forms.fields_of(found)
        return render(request, "request.html", request=found, fields=fields, **around)

    @router.get("/workers")
    def workers(request: Request) -> Response:
        return render(request, "workers.html", workers=scoped.control.workers())

    @router.get(f"/events/{paths.RUN}")
    async def follow(request: Request, run_id: str) -> Response:
        after = request.query_params.get("after", "")
        number = events.after(request.headers.get("last-event-id") or after, 0)
        await run_in_threadpool(scoped.run, caller_of(request), run_id)
        return events.stream(scoped.control, run_id, number)

    @router.get(f"/run/{paths.RUN}")
    def run(request: Request, run_id: str) -> Response:
        caller, asked = caller_of(request), request.query_params
        last_event = scoped.last_event(run_id)  # what comes after the look is followed
        found = scoped.run(caller, run_id)
        at, inside = asked.get("at"), asked.get("in")
        seen = run_page.seen(scoped, caller, found, at, inside, last_event)
        return render(request, "run.html", **seen)


_FILTERS = ("text", "definition", "state", "since")


def _since(text: str) -> datetime | None:
    if text and text not in _HOURS:
        raise Problem(422, "since is 1h, 1d or 7d.", "invalid")
    return datetime.now(timezone.utc) - timedelta(hours=_HOURS[text]) if text else None


# Doing something -------------------------------------------------------------------------


def _add_doing(router: APIRouter, scoped: ScopedControl) -> None:
    @router.post("/request/{request_id}")
    async def answer(request: Request, request_id: str) -> Response:
        form = await form_of(request)

        def work() -> Response:
            caller = caller_of(request)
            asked = scoped.request(caller, request_id, "answer")
            try:
                check(request, form)
                scoped.answer(caller, request_id, forms.answer_of(asked, form), None)
            except (CrewaiDbosError, Problem) as error:
                return _asked_again(request, scoped, request_id, form, error)
            return back(request, f"/request/{quote(request_id, safe='')}")

        return await run_in_threadpool(work)

    @router.post(f"/run/{paths.RUN}")
    async def change(request: Request, run_id: str) -> Response:
        form = await form_of(request)

        def work() -> Response:
            caller = caller_of(request)
            run = scoped.run(caller, run_id)
            try:
                check(request, form)
                where = _changed(scoped, caller, run_id, form)
            except (CrewaiDbosError, Problem) as error:
                problem = problem_of(error)
                at = form.get("at") or None
                given = {"given": form, "problem": problem.as_json()}
                seen = {**run_page.seen(scoped, caller, run, at), **given}
                return render(request, "run.html", problem.status, **seen)
            return back(request, f"/run/{quote(where, safe='')}")

        return await run_in_threadpool(work)


def _asked_again(
    request: Request,
    scoped: ScopedControl,
    request_id: str,
    form: Mapping[str, str],
    error: Exception,
) -> Response:
    """The form again, with what somebody has put in, and what is wrong with it."""
    problem = problem_of(error)
    caller = caller_of(request)
    asked = scoped.request(caller, request_id)
    return render(
        request,
        "request.html",
        problem.status,
        request=asked,
        fields=forms.fields_of(asked),
        given=form,
        problem=problem.as_json(),
        **request_page.around(scoped, caller, asked),
    )


def _changed(scoped: ScopedControl, caller: Caller, run_id: str, form: Mapping[str, str]) -> str:
    """Do to a run what a form says. Returns the id of the run to look at then."""
    do, control, by = form.get("do"), scoped.control, caller.name(None)
    if do == "cancel":
        scoped.run(caller, run_id, "cancel")
        control.cancel(run_id, reason=form.get("reason") or None, by=by)
        return run_id
    if do == "resume":
        scoped.run(caller, run_id, "resume")
        control.resume(run_id)
        return run_id
    if do in ("fork", "edit"):
        run = scoped.run(caller, run_id, "fork")
        at = form.get("at", "")
        trees.found(run, at)
        if do == "fork":
            return scoped.fork(caller, run_id, at, fork_id=_once(form, "fork"))
        edit = {at: run_page.edited(scoped, run, at, form)}
        return scoped.fork(
            caller, run_id, edit=edit, fork_id=_once(form, at, form.get("result", ""))
        )
    raise Problem(422, "Cancel, resume, fork or edit?", "invalid")


def _once(form: Mapping[str, str], *what: str) -> str | None:
    """The id of a fork: a form that is sent twice makes one."""
    given = form.get("once", "")
    return str(uuid5(NAMESPACE_OID, "\0".join((given, *what)))) if given else None


# Coming in ---------------------------------------------------------------------------------


_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this page, and no URL of another site."""


def _add_login(router: APIRouter, scoped: ScopedControl) -> None:
    def _check_tokens() -> None:
        if not scoped.access.needs_token:
            raise Problem(404, "Nobody logs in here.")

    @router.get("/login", name="login")
    def login(request: Request) -> Response:
        _check_tokens()
        where = request.query_params.get("next", "/")
        return render(request, "login.html", wrong=False, next=where, name="", typed=())

    @router.post("/login", name="enter")
    async def enter(request: Request) -> Response:
        _check_tokens()
        form = await form_of(request)
        check(request, form)
        token, name = form.get("token", "").strip(), form.get("name", "").strip()
        where = form.get("next", "/")
        if not name or not scoped.access.is_token(token):
            again = {"wrong": True, "next": where, "name": name, "typed": ()}
            return render(request, "login.html", 403, **again)
        response = back(request, where if _PATH.fullmatch(where) else "/")
        sessions.signed_in(response, request, base_of(request), token, name)
        return response

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        check(request, await form_of(request))
        response = back(request, "/login")
        sessions.signed_out(response, request, base_of(request))
        return response

    @router.get("/static/{name}", name="static")
    def static(name: str) -> Response:
        kind = {"page.css": "text/css", "page.js": "text/javascript"}.get(name)
        if kind is None:
            raise Problem(404, "There is no such file.")
        content = resources.files("crewai_dbos._http").joinpath("static", name).read_bytes()
        return Response(content, media_type=kind, headers={"Cache-Control": "max-age=300"})
