"""What goes wrong, as an answer: a problem of RFC 9457, without a trace and without a secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from crewai_dbos import errors
from crewai_dbos._secrets import known

logger = logging.getLogger("crewai_dbos")

MEDIA_TYPE = "application/problem+json"
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of every answer: what runs hold is kept by nobody on the way, and not guessed at."""

_TITLES = {
    400: "Not readable",
    401: "Who is asking?",
    403: "Not allowed",
    404: "Not found",
    405: "No such method",
    409: "Conflict",
    410: "Gone",
    413: "Too large",
    415: "Not JSON",
    422: "Does not fit",
    500: "Failed here",
    501: "Not offered here",
    503: "Not to be reached now",
}


class ProblemShape(BaseModel):
    """What an answer holds that is not what was asked for."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):
    """An answer that says what is wrong.

    Args:
        status: Of HTTP.
        detail: What is wrong, and what to do.
        kind: Names it for programs; the last part of its ``type``.
        headers: More of the answer.
        more: What else it says, by name.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind
        self.headers = dict(headers or {})
        self.more = more

    def as_json(self) -> dict[str, Any]:
        """The body."""
        kind = "about:blank" if self.kind is None else f"urn:crewai-dbos:{self.kind}"
        title = _TITLES.get(self.status, "Not done")
        detail = known.hide(self.detail)
        return {"type": kind, "title": title, "status": self.status, "detail": detail, **self.more}

    def response(self) -> Response:
        """The answer. Texts that are no Unicode are escaped in it."""
        return Response(
            json.dumps(self.as_json()),
            self.status,
            {**HEADERS, **self.headers},
            media_type=MEDIA_TYPE,
        )


def problem_of(error: Exception) -> Problem:
    """What is said of an error; nothing of one that is none of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, SQLAlchemyError):
        logger.error("The database can't be reached: %s", type(error).__name__)
        return Problem(503, "The database can't be reached. Try again later.", "database")
    if isinstance(error, errors.CrewaiDbosError):
        return _of_ours(error)
    return _unforeseen(error)


def _unforeseen(error: Exception) -> Problem:
    logger.error("A request over HTTP has failed", exc_info=error)
    return Problem(500, "Something went wrong here; the log of the server says what.")


def _of_validation(error: RequestValidationError) -> Problem:
    # What was sent is left out: it may be a secret, or no text.
    found = [
        {"path": ".".join(map(str, each["loc"][1:])), "message": _message(each)}
        for each in error.errors()
    ]
    told = "; ".join(f"{each['path'] or 'it'}: {each['message']}" for each in found[:5])
    return Problem(422, f"That does not fit: {told}.", "invalid", errors=found[:50])


def _message(error: Mapping[str, Any]) -> str:
    tags = error.get("ctx", {}).get("expected_tags")
    if tags is not None:  # the message of pydantic has what was sent, and a name of ours
        return f"The field 'is' says one of {tags}"
    return known.hide(str(error["msg"]))


_STATUSES: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.RunNotFoundError, 404, "unknown-run"),
    (errors.UnknownRequest, 404, "unknown-request"),
    (errors.MissingDefinitionError, 404, "unknown-definition"),
    (errors.AlreadyAnswered, 409, "already-answered"),
    (errors.RunForkedError, 409, "forked"),
    (errors.RunStateError, 409, "run-state"),
    (errors.RunConflictError, 409, "run-conflict"),
    (errors.RequestExpired, 410, "expired"),
    (errors.InvalidAnswer, 422, "invalid-answer"),
    (errors.NotAllowed, 403, "not-allowed"),
    (errors.ForkError, 422, "fork"),
    (errors.UnstorableInputError, 422, "unstorable"),
    (errors.UnstorableValueError, 422, "unstorable"),
    (errors.NotLaunchedError, 503, "not-launched"),
    (errors.DefinitionError, 422, "invalid"),
)
"""By class, the first that fits: the status, and the name for programs."""


_SEALED = (
    "What is stored is encrypted, and this server can't read it. It wants the keys: "
    "Control(url, serializer=...), or of crewai-dbos serve the variable CREWAI_DBOS_KEYS."
)


def _of_ours(error: errors.CrewaiDbosError) -> Problem:
    if isinstance(error, errors.SealedError):
        logger.warning("A request over HTTP wants what is encrypted: %s", error)
        return Problem(503, _SEALED, "sealed")
    for cls, status, kind in _STATUSES:
        if isinstance(error, cls):
            return Problem(status, str(error), kind, **_more(error))
    return _unforeseen(error)


def _more(error: errors.CrewaiDbosError) -> dict[str, Any]:
    if isinstance(error, errors.AlreadyAnswered):
        at = None if error.at is None else error.at.isoformat()
        return {"by": error.by, "at": at}
    if isinstance(error, errors.InvalidAnswer):
        return {"errors": [{"path": p, "message": known.hide(m)} for p, m in error.errors[:50]]}
    return {}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These, and what every endpoint may answer, for its OpenAPI."""
    schema = ProblemShape.model_json_schema()
    content = {MEDIA_TYPE: {"schema": schema}}
    every = sorted({400, 401, 403, 413, 422, 500, 503, *statuses})
    return {status: {"description": _TITLES[status], "content": content} for status in every}
