"""Runs and requests behind an API of the user's own, and on a page. An extra: ``http``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

try:
    from fastapi import APIRouter, Depends
    from fastapi.security import HTTPBearer
except ImportError:
    raise ImportError("crewai_dbos.http is an extra: pip install 'crewai-dbos[http]'") from None

from crewai_dbos._http import amp, api
from crewai_dbos._http.auth import Action as Action
from crewai_dbos._http.auth import Door, May, Who
from crewai_dbos._http.auth import User as User
from crewai_dbos._http.definitions import Offered
from crewai_dbos._http.guarding import guarded
from crewai_dbos._http.runs import Desk
from crewai_dbos.control import Control
from crewai_dbos.errors import DefinitionError

__all__ = ["Action", "User", "router"]


def router(
    control: Control,
    *,
    definitions: Iterable[Any] = (),
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
            in this process then.
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
    if not isinstance(control, Control):
        raise DefinitionError(
            f"router(control) is given a crewai_dbos.control.Control, not {type(control).__name__}"
        )
    desk = Desk(control, Door(tokens, local_only, who, may), Offered(definitions))
    made = APIRouter(
        route_class=guarded(desk.door, max_body),
        dependencies=[Depends(HTTPBearer(auto_error=False))] if desk.door.needs_token else [],
        tags=["crewai-dbos"],
    )
    api.add(made, desk)
    amp.add(made, desk)
    return made
