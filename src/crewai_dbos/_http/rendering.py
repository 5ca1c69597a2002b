"""Pages as answers: made of a template, behind the access, and also where something goes wrong.

Whatever runs hold is anybody's text: every template escapes all that it is given, and the browser
is told to run nothing but our one script.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote

from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from crewai_dbos._http import forms, paths, sessions
from crewai_dbos._http.auth import Caller
from crewai_dbos._http.guarding import limited
from crewai_dbos._http.problems import HEADERS, Problem, problem_of
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos._http.timeline import seconds
from crewai_dbos._stored.forms import is_storable
from crewai_dbos._stored.prices import dollars

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
        q=lambda text: quote(str(text), safe=""), seconds=seconds, ago=ago, usd=dollars, json=shown
    )
    return made


def shown_by(scoped: ScopedControl, max_body: int) -> type[APIRoute]:
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
                    scoped.access.check_origin(request)
                    if not is_open:
                        request.state.crewai_dbos = await _who(scoped, request)
                    response = await handle(await limited(request, max_body))
                except Exception as error:
                    problem = problem_of(error)
                    if problem.status == 401 and scoped.access.needs_token and not is_open:
                        response = await _asked_in(request, max_body)
                    else:
                        response = render(
                            request, "problem.html", problem.status, problem=problem.as_json()
                        )
                for name, value in SAFE.items():
                    response.headers.setdefault(name, value)
                return response

            return show

    return Shown


async def _who(scoped: ScopedControl, request: Request) -> Caller:
    found = sessions.caller(request, base_of(request), scoped.access)
    return found or await scoped.access.authenticate(request)


async def _asked_in(request: Request, max_body: int) -> Response:
    """Have somebody log in, and lead them back. What they have sent is shown, so it is not lost."""
    where = request.state.crewai_dbos_own
    if request.method == "GET":
        where += f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{base_of(request)}/login?next={quote(where, safe='')}", 303)
    try:
        form = await form_of(await limited(request, max_body))
    except Problem:
        form = {}
    typed = [text for name, text in form.items() if name not in _NOT_TYPED and text]
    given = {"next": where, "name": "", "wrong": False, "typed": typed}
    return render(request, "login.html", 401, **given)


_NOT_TYPED = ("key", "is", "do", "at", "once")
"""Fields of our forms that nobody fills in."""


def base_of(request: Request) -> str:
    """The path that this page is mounted at; there may be several in an application."""
    found: str = request.state.crewai_dbos_base
    return found


def _split(request: Request, own: str) -> tuple[str, str]:
    """The path of a request for the route ``own``: what the page is mounted at, and the rest."""
    for name, value in request.path_params.items():
        own = own.replace(paths.any_id(name), value).replace(f"{{{name}}}", value)
    path, root = str(request.scope["path"]), request.scope.get("root_path", "").rstrip("/")
    before = path.removesuffix(own)
    base = before if f"{before}/".startswith(f"{root}/") else f"{root}{before}"
    return quote(base), quote(own)


def render(request: Request, name: str, status: int = 200, /, **given: Any) -> Response:
    """A page.

    Args:
        request: What it answers.
        name: Of the template.
        status: Of the answer.
        given: What the template wants.
    """
    base = base_of(request)
    key = sessions.form_key(request, base)
    caller: Caller | None = getattr(request.state, "crewai_dbos", None)
    text = (
        templates()
        .get_template(name)
        .render(
            base=base,
            key=key,
            user=None if caller is None else caller.user.name,
            has_session=sessions.has_session(request, base),
            **given,
        )
    )
    response = Response(text.encode("utf-8", "replace"), status, media_type="text/html")
    sessions.keep_form_key(response, request, base, key)
    return response


def caller_of(request: Request) -> Caller:
    """Who sends the request."""
    found: Caller = request.state.crewai_dbos
    return found


async def form_of(request: Request) -> dict[str, str]:
    """What a form holds; whether it is ours `check` says."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        given = dict(parse_qsl(body, keep_blank_values=True, max_num_fields=1000))
    except ValueError:
        raise Problem(422, "The form has too many fields.", "invalid") from None
    return {name: forms.as_typed(text) for name, text in given.items()}


def check(request: Request, form: Mapping[str, str]) -> None:
    """Refuse a form that is not ours, or has what can't be stored."""
    sessions.check_form(request, base_of(request), form)
    if not all(map(is_storable, form.values())):
        raise Problem(422, "There is a character in it that can't be stored (NUL).", "invalid")


def back(request: Request, where: str) -> Response:
    """Have the browser go to another page of ours, when it has sent a form."""
    return RedirectResponse(f"{base_of(request)}{where}", 303)


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
    passed = round((datetime.now(timezone.utc) - when).total_seconds())
    if passed == 0:
        return "now"
    told = f"{abs(passed)} s" if abs(passed) < 10 else seconds(abs(passed))
    return f"{told} ago" if passed > 0 else f"in {told}"
