"""Runs and requests behind an API of the user's own, and on a page. An extra: ``http``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

try:
    from fastapi import APIRouter, Depends, FastAPI
    from fastapi.security import HTTPBearer
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    from crewai_dbos._http import page as pages
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("fastapi", "jinja2", "starlette"):
        raise
    raise ImportError("crewai_dbos.http is an extra: pip install 'crewai-dbos[http]'") from None

from crewai_dbos._http import amp, api
from crewai_dbos._http.auth import Access, May, Who
from crewai_dbos._http.auth import Action as Action
from crewai_dbos._http.auth import User as User
from crewai_dbos._http.definitions import Definitions, OfWorkers
from crewai_dbos._http.guarding import guarded
from crewai_dbos._http.problems import problem_of
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError

__all__ = ["Action", "User", "application", "page", "router"]


def router(
    control: Control,
    *,
    definitions: Iterable[Any] | Literal["workers"] = (),
    queue: str | None = None,
    tokens: str | Iterable[str] = (),
    local_only: bool = False,
    who: Who | None = None,
    may: May | None = None,
    max_body: int = 1_000_000,
) -> APIRouter:
    """Endpoints for runs and requests, to be included in a FastAPI application.

    Args:
        control: Of the database. It is not closed here.
        definitions: Each `DBOSCrew` and `DBOSFlow` that can be kicked off; DBOS has to be launched
            in this process then. Or ``"workers"``: those that a `Worker` has which lives, as of
            `Control.kickoff`.
        queue: The DBOS queue of a kickoff that names none. By default it is carried out here, or
            by the worker that looks first.
        tokens: Bearer tokens, any of which lets a program in: two while one follows another.
        local_only: Let in whoever is on this machine, and nobody else.
        who: Says who of the application's users sends a request: a function, async or not, of the
            request, that returns a `User`, or None for somebody unknown.
        may: Says what they may do: a function, async or not, of the user, an `Action`, and a `Run`,
            a `Request` or the name of a definition. By default everybody may do everything, but
            see and answer only requests for their `audiences`.
        max_body: Bytes that a request may have.

    Raises:
        DefinitionError: Nothing says who is let in, or what is given can't be that.

    Example::

        from fastapi import FastAPI

        from crewai_dbos.http import router

        app = FastAPI()
        runs = router(control, definitions=[crew], tokens=["kq3vN1mU8sT5xY2zB7aC"])
        app.include_router(runs, prefix="/crews")
    """
    scoped = _scoped(control, Access(tokens, local_only, who, may), definitions, queue)
    made = APIRouter(
        route_class=guarded(scoped.access, max_body),
        dependencies=[Depends(HTTPBearer(auto_error=False))] if scoped.access.needs_token else [],
        tags=["crewai-dbos"],
    )
    api.add(made, scoped)
    amp.add(made, scoped)
    return made


def page(
    control: Control,
    *,
    tokens: str | Iterable[str] = (),
    local_only: bool = False,
    who: Who | None = None,
    may: May | None = None,
    max_body: int = 1_000_000,
) -> APIRouter:
    """A page to look at runs, to answer requests, and to cancel, resume and fork.

    With `tokens` people log in with one of them, and say who they are.

    Args:
        control: As of `router`.
        tokens: As of `router`.
        local_only: As of `router`.
        who: As of `router`.
        may: As of `router`.
        max_body: As of `router`.

    Raises:
        DefinitionError: As of `router`.

    Example::

        from fastapi import FastAPI

        from crewai_dbos.http import page

        app = FastAPI()
        app.include_router(page(control, local_only=True), prefix="/runs")
    """
    return pages.page(_scoped(control, Access(tokens, local_only, who, may)), max_body)


def application(
    control: Control,
    *,
    definitions: Iterable[Any] | Literal["workers"] = (),
    queue: str | None = None,
    tokens: str | Iterable[str] = (),
    local_only: bool = False,
    who: Who | None = None,
    may: May | None = None,
) -> FastAPI:
    """An application with the page at ``/`` and the router at ``/api``: ``crewai-dbos serve``.

    Args:
        control: As of `router`.
        definitions: As of `router`.
        queue: As of `router`.
        tokens: As of `router`.
        local_only: As of `router`.
        who: As of `router`.
        may: As of `router`.

    Raises:
        DefinitionError: As of `router`.

    Example::

        from crewai_dbos.http import application

        app = application(control, local_only=True)  # uvicorn module:app
    """
    keys = [tokens] if isinstance(tokens, str) else list(tokens)
    # The pages that FastAPI makes of the OpenAPI load scripts from elsewhere.
    app = FastAPI(title="crewai-dbos", docs_url=None, redoc_url=None, openapi_url=None)
    made = router(
        control,
        definitions=definitions,
        queue=queue,
        tokens=keys,
        local_only=local_only,
        who=who,
        may=may,
    )
    app.include_router(made, prefix="/api")
    access = Access(keys, local_only, who, may)
    described = APIRouter(route_class=guarded(access, 0), include_in_schema=False)

    @described.get("/openapi.json")
    def openapi() -> Response:
        return JSONResponse(app.openapi())

    app.include_router(described, prefix="/api")
    app.include_router(page(control, tokens=keys, local_only=local_only, who=who, may=may))

    @app.exception_handler(HTTPException)
    async def say(_: Request, error: Exception) -> Response:
        return problem_of(error).response()

    return app


def _scoped(
    control: Any,
    access: Access,
    definitions: Iterable[Any] | Literal["workers"] = (),
    queue: str | None = None,
) -> ScopedControl:
    if not isinstance(control, Control):
        raise DefinitionError(
            f"Give a crewai_dbos.control.Control, not a {type(control).__name__}."
        )
    known = OfWorkers(control) if definitions == "workers" else Definitions(definitions)
    return ScopedControl(control, access, known, queue)
