"""The page: what there is to see of runs and requests, and the forms to do something about them.

It is made here as HTML, and works without JavaScript. Whatever runs hold is anybody's text: every
template escapes all that it is given, and the browser is told to run nothing but our one script.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from importlib import resources
from typing import Any, get_args
from urllib.parse import parse_qsl, quote
from uuid import NAMESPACE_OID, uuid4, uuid5

from fastapi import APIRouter
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from crewai_dbos._http import events, forms, sessions
from crewai_dbos._http.auth import Caller
from crewai_dbos._http.guarding import limited
from crewai_dbos._http.problems import HEADERS, Problem, problem_of
from crewai_dbos._http.runs import Desk
from crewai_dbos._http.texts import is_storable, plain_json
from crewai_dbos._http.timeline import seconds, timeline
from crewai_dbos.control import Node, Run, State
from crewai_dbos.errors import CrewaiDbosError, SealedError

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser may do with a page of ours: nothing that stands in its text."""

SAFE = {
    **HEADERS,
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with "no-referrer" the Origin of our forms is "null"
    "X-Frame-Options": "DENY",
}

STATES: tuple[str, ...] = get_args(State)
ALIVE: tuple[State, ...] = (
    "queued",
    "running",
    "interrupted",
    "waiting",
    "waking",
    "stranded",
)
"""The states of a run that can be cancelled."""

SINCE = {"1h": "the last hour", "1d": "the last day", "7d": "the last week"}
_HOURS = {"1h": 1, "1d": 24, "7d": 168}
_LONGEST = 20_000
"""Characters of a result that are shown."""

_EDITABLE = ("llm", "tool", "step", "method", "person", "task")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates, which escape everything."""
    made = Environment(
        loader=PackageLoader("crewai_dbos._http"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        q=lambda text: quote(str(text), safe=""), seconds=seconds, ago=ago, usd=usd, json=shown
    )
    return made


def page(desk: Desk, max_body: int) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(route_class=_shown(desk, max_body), include_in_schema=False)
    _add_reading(router, desk)
    _add_doing(router, desk)
    _add_door(router, desk)
    return router


# Around every route ------------------------------------------------------------------


def _shown(desk: Desk, max_body: int) -> type[APIRoute]:
    """The class of routes that answer with a page, also if something goes wrong."""

    paths: dict[Any, str] = {}

    class Shown(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()
            # It is made again with what it is included under before its path.
            own = paths.setdefault(self.endpoint, self.path)
            is_open = own in ("/login", "/static/{name}")

            async def show(request: Request) -> Response:
                request.state.crewai_dbos_base, request.state.crewai_dbos_own = _split(request, own)
                try:
                    desk.door.check_origin(request)
                    if not is_open:
                        request.state.crewai_dbos = await _who(desk, request)
                    response = await handle(await limited(request, max_body))
                except Exception as error:
                    problem = problem_of(error)
                    if problem.status == 401 and desk.door.needs_token and not is_open:
                        response = await _asked_in(request, max_body)
                    else:
                        response = _render(
                            request, "problem.html", problem.status, problem=problem.as_json()
                        )
                for name, value in SAFE.items():
                    response.headers.setdefault(name, value)
                return response

            return show

    return Shown


async def _who(desk: Desk, request: Request) -> Caller:
    return sessions.caller(request, desk.door) or await desk.door.enter(request)


async def _asked_in(request: Request, max_body: int) -> Response:
    """Have somebody log in, and lead them back. What they have sent is shown, so it is not lost."""
    where = request.state.crewai_dbos_own
    if request.method == "GET":
        where += f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{_base(request)}/login?next={quote(where, safe='')}", 303)
    try:
        form = await _fields(await limited(request, max_body))
    except Problem:
        form = {}
    typed = [text for name, text in form.items() if name not in _NOT_TYPED and text]
    given = {"next": where, "name": "", "wrong": False, "typed": typed}
    return _render(request, "login.html", 401, **given)


_NOT_TYPED = ("key", "is", "do", "at", "once")
"""Fields of our forms that nobody fills in."""


def _base(request: Request) -> str:
    """The path that this page is mounted at; there may be several in an application."""
    found: str = request.state.crewai_dbos_base
    return found


def _split(request: Request, own: str) -> tuple[str, str]:
    """The path of a request for the route ``own``: what the page is mounted at, and the rest."""
    for name, value in request.path_params.items():
        own = own.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
    path, root = str(request.scope["path"]), request.scope.get("root_path", "").rstrip("/")
    before = path.removesuffix(own)
    base = before if f"{before}/".startswith(f"{root}/") else f"{root}{before}"
    return quote(base), quote(own)


def _render(request: Request, name: str, status: int = 200, /, **given: Any) -> Response:
    key = sessions.form_key(request)
    caller: Caller | None = getattr(request.state, "crewai_dbos", None)
    text = (
        templates()
        .get_template(name)
        .render(
            base=_base(request),
            key=key,
            user=None if caller is None else caller.user.name,
            has_session=sessions.SESSION in request.cookies,
            **given,
        )
    )
    response = Response(text.encode("utf-8", "replace"), status, media_type="text/html")
    sessions.keep_form_key(response, request, _base(request), key)
    return response


def _caller(request: Request) -> Caller:
    found: Caller = request.state.crewai_dbos
    return found


async def _fields(request: Request) -> dict[str, str]:
    """What a form holds; whether it is ours `_check` says."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        given = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=1000))
    except ValueError:
        raise Problem(422, "The form has too many fields.", "invalid") from None
    return {name: forms.as_typed(text) for name, text in given.items()}


def _check(request: Request, form: Mapping[str, str]) -> None:
    """Refuse a form that is not ours, or has what can't be stored."""
    sessions.check_form(request, form)
    if not all(map(is_storable, form.values())):
        raise Problem(422, "There is a character in it that can't be stored (NUL).", "invalid")


def _back(request: Request, where: str) -> Response:
    return RedirectResponse(f"{_base(request)}{where}", 303)


# Reading -------------------------------------------------------------------------------


def _add_reading(router: APIRouter, desk: Desk) -> None:
    @router.get("/", name="crewai_dbos_runs")
    def runs(request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in _FILTERS}
        if not all(map(is_storable, request.query_params.values())):
            raise Problem(422, "That is no filter.", "invalid")
        found, cursor = desk.search(
            _caller(request),
            asked["text"],
            definition=asked["definition"] or None,
            state=asked["state"] or None,
            since=_since(asked["since"]),
            cursor=request.query_params.get("cursor"),
        )
        return _render(
            request,
            "runs.html",
            runs=found,
            asked=asked,
            cursor=cursor,
            states=STATES,
            since=SINCE,
            waiting=len(desk.requests(_caller(request), limit=100)),
        )

    @router.get("/requests")
    def requests(request: Request) -> Response:
        found = desk.requests(_caller(request), limit=100)
        return _render(request, "requests.html", requests=found)

    @router.get("/request/{request_id}")
    def one_request(request: Request, request_id: str) -> Response:
        found = desk.request(_caller(request), request_id)
        return _render(request, "request.html", request=found, fields=forms.fields_of(found))

    @router.get("/workers")
    def workers(request: Request) -> Response:
        return _render(request, "workers.html", workers=desk.control.workers())

    @router.get("/events/{run_id:path}")
    async def follow(request: Request, run_id: str) -> Response:
        number = events.after(request.headers.get("last-event-id"), 0)
        await run_in_threadpool(desk.run, _caller(request), run_id)
        return events.stream(desk.control, run_id, number)

    @router.get("/run/{run_id:path}")
    def run(request: Request, run_id: str) -> Response:
        at = request.query_params.get("at")
        found = desk.run(_caller(request), run_id)
        return _render(request, "run.html", **_seen(desk, _caller(request), found, at))


_FILTERS = ("text", "definition", "state", "since")


def _since(text: str) -> datetime | None:
    if text and text not in _HOURS:
        raise Problem(422, "since is 1h, 1d or 7d.", "invalid")
    return datetime.now(timezone.utc) - timedelta(hours=_HOURS[text]) if text else None


def _seen(desk: Desk, caller: Caller, run: Run, at: str | None) -> dict[str, Any]:
    """What the page of a run shows."""
    control = desk.control
    node = _find(run.children, at) if at else None
    seen = timeline(run, control.costs_of(run.run_id))
    return {
        "run": run,
        "rows": seen.rows,
        "ticks": seen.ticks,
        "left_out": seen.count - len(seen.rows),
        "once": str(uuid4()),
        "inputs": _content(lambda: control.inputs_of(run.run_id)),
        "result": _content(lambda: control.result_of(run.run_id)),
        "requests": desk.requests_of(caller, run.run_id),
        "node": node,
        "call": None if node is None else _call_for(desk, caller, run, node),
        "is_alive": run.state in ALIVE,
        "edits": node is not None and node.kind in _EDITABLE,
    }


def _content(read: Callable[[], Any]) -> dict[str, Any]:
    """A text to show; or why there is none."""
    try:
        text = shown(read())
    except SealedError as error:
        return {"text": "", "why": problem_of(error).detail, "is_whole": False}
    return {"text": text[:_LONGEST], "why": "", "is_whole": len(text) <= _LONGEST}


def _call_for(desk: Desk, caller: Caller, run: Run, node: Node) -> dict[str, Any]:
    if desk.may_read(caller, run, node):
        return _call(desk, run, node)
    why = "What a person has said here is for others."
    return {"text": "", "why": why, "is_whole": False, "content": None}


def _call(desk: Desk, run: Run, node: Node) -> dict[str, Any]:
    """What is known of a call in a run; of a task its last answer."""
    path = node.path if node.kind != "task" else _last_answer(node)
    if node.kind == "method":
        path = f"{node.path}/outcome#1"
    found: dict[str, Any] = {"content": None}

    def read() -> Any:
        content = desk.control.content_of(run.run_id, path) if path else None
        found["content"] = content
        if content is None:
            return None
        is_end = node.kind == "method" and isinstance(content.result, Mapping)
        return content.result.get("returned") if is_end else content.result

    return {**_content(read), **found}


def _last_answer(node: Node) -> str | None:
    """The path of the last answer of an LLM inside."""
    for child in reversed(node.children):
        if child.kind == "llm":
            return child.path
        if (path := _last_answer(child)) is not None:
            return path
    return None


def _find(nodes: tuple[Node, ...], path: str) -> Node | None:
    for node in nodes:
        if node.path == path:
            return node
        if (found := _find(node.children, path)) is not None:
            return found
    return None


# Doing something -------------------------------------------------------------------------


def _add_doing(router: APIRouter, desk: Desk) -> None:
    @router.post("/request/{request_id}")
    async def answer(request: Request, request_id: str) -> Response:
        form = await _fields(request)

        def work() -> Response:
            caller = _caller(request)
            asked = desk.request(caller, request_id, "answer")
            try:
                _check(request, form)
                desk.answer(caller, request_id, forms.answer_of(asked, form), None)
            except (CrewaiDbosError, Problem) as error:
                return _asked_again(request, desk, request_id, form, error)
            return _back(request, f"/request/{quote(request_id, safe='')}")

        return await run_in_threadpool(work)

    @router.post("/run/{run_id:path}")
    async def change(request: Request, run_id: str) -> Response:
        form = await _fields(request)

        def work() -> Response:
            caller = _caller(request)
            run = desk.run(caller, run_id)
            try:
                _check(request, form)
                where = _changed(desk, caller, run_id, form)
            except (CrewaiDbosError, Problem) as error:
                problem = problem_of(error)
                at = form.get("at") or None
                given = {"given": form, "problem": problem.as_json()}
                seen = {**_seen(desk, caller, run, at), **given}
                return _render(request, "run.html", problem.status, **seen)
            return _back(request, f"/run/{quote(where, safe='')}")

        return await run_in_threadpool(work)


def _asked_again(
    request: Request, desk: Desk, request_id: str, form: Mapping[str, str], error: Exception
) -> Response:
    """The form again, with what somebody has put in, and what is wrong with it."""
    problem = problem_of(error)
    asked = desk.request(_caller(request), request_id)
    return _render(
        request,
        "request.html",
        problem.status,
        request=asked,
        fields=forms.fields_of(asked),
        given=form,
        problem=problem.as_json(),
    )


def _changed(desk: Desk, caller: Caller, run_id: str, form: Mapping[str, str]) -> str:
    """Do to a run what a form says. Returns the id of the run to look at then."""
    do, control, by = form.get("do"), desk.control, caller.name(None)
    if do == "cancel":
        desk.run(caller, run_id, "cancel")
        control.cancel(run_id, reason=form.get("reason") or None, by=by)
        return run_id
    if do == "resume":
        desk.run(caller, run_id, "resume")
        control.resume(run_id)
        return run_id
    if do in ("fork", "edit"):
        run = desk.run(caller, run_id, "fork")
        at = form.get("at", "")
        if _find(run.children, at) is None:
            raise Problem(404, f"There is no {at!r} in run {run_id!r}.", "unknown-place")
        if do == "fork":
            return desk.fork(caller, run_id, at, fork_id=_once(form, "fork"))
        edit = {at: _edited(desk, run, at, form)}
        return desk.fork(caller, run_id, edit=edit, fork_id=_once(form, at, form.get("result", "")))
    raise Problem(422, "Cancel, resume, fork or edit?", "invalid")


def _once(form: Mapping[str, str], *what: str) -> str | None:
    """The id of a fork: a form that is sent twice makes one."""
    given = form.get("once", "")
    return str(uuid5(NAMESPACE_OID, "\0".join((given, *what)))) if given else None


def _edited(desk: Desk, run: Run, at: str, form: Mapping[str, str]) -> Any:
    """What somebody has put in place of a result: a text, or JSON where that was none."""
    text = form.get("result", "")
    node = _find(run.children, at)
    assert node is not None
    content = _call(desk, run, node)["content"]
    result = None if content is None else content.result
    if node.kind == "method" and isinstance(result, Mapping):
        result = result.get("returned")
    if isinstance(result, str) or node.kind in ("task", "llm"):
        return text
    try:
        return plain_json(json.loads(text))
    except (ValueError, RecursionError):
        raise Problem(422, "The result has to be JSON, as it was before.", "invalid") from None


# Coming in ---------------------------------------------------------------------------------


_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this page, and no URL of another site."""


def _add_door(router: APIRouter, desk: Desk) -> None:
    def _check_tokens() -> None:
        if not desk.door.needs_token:
            raise Problem(404, "Nobody logs in here.")

    @router.get("/login", name="login")
    def login(request: Request) -> Response:
        _check_tokens()
        where = request.query_params.get("next", "/")
        return _render(request, "login.html", wrong=False, next=where, name="", typed=())

    @router.post("/login", name="enter")
    async def enter(request: Request) -> Response:
        _check_tokens()
        form = await _fields(request)
        _check(request, form)
        token, name = form.get("token", "").strip(), form.get("name", "").strip()
        where = form.get("next", "/")
        if not name or not desk.door.is_key(token):
            again = {"wrong": True, "next": where, "name": name, "typed": ()}
            return _render(request, "login.html", 403, **again)
        response = _back(request, where if _PATH.fullmatch(where) else "/")
        sessions.signed_in(response, request, _base(request), token, name)
        return response

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        _check(request, await _fields(request))
        response = _back(request, "/login")
        sessions.signed_out(response, _base(request))
        return response

    @router.get("/static/{name}", name="static")
    def static(name: str) -> Response:
        kind = {"page.css": "text/css", "page.js": "text/javascript"}.get(name)
        if kind is None:
            raise Problem(404, "There is no such file.")
        content = resources.files("crewai_dbos._http").joinpath("static", name).read_bytes()
        return Response(content, media_type=kind, headers={"Cache-Control": "max-age=300"})


# Texts ---------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """JSON data as people read them: a text as it is."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, indent=2)


def ago(when: datetime | None) -> str:
    """A time, as seen from now."""
    if when is None:
        return ""
    passed = (datetime.now(timezone.utc) - when).total_seconds()
    return f"{seconds(passed)} ago" if passed >= 0 else f"in {seconds(-passed)}"


def usd(amount: float | None) -> str:
    """Money; nothing where a price is not known."""
    if amount is None:
        return "$ ?"
    if 0 < amount < 0.0001:
        return "<$0.0001"
    return f"${amount:.4f}" if 0 < amount < 0.1 else f"${amount:.2f}"
