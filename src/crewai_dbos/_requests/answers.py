"""What a person may say, and whether it fits what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema.validators import validator_for
from referencing import Registry

from crewai_dbos._requests.request import Request
from crewai_dbos.errors import InvalidAnswer, NotAllowed


@dataclass(frozen=True)
class Approve:
    """Yes: the tool may be called, the result is good as it is, or the run may cost more.

    Args:
        arguments: Those of the tool call that are to be others, by name, as JSON data; of a budget
            the new limit, ``{"tokens": 200_000}``.

    Example::

        from crewai_dbos.control import Approve

        yes = Approve()
        yes_but = Approve(arguments={"to": "bob@example.org"})
    """

    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reject:
    """No: the tool is not called, and the model is told why; or the run stops at its budget.

    Args:
        reason: Why, in words.

    Example::

        from crewai_dbos.control import Reject

        no = Reject("The customer has been written to already.")
    """

    reason: str = ""


@dataclass(frozen=True)
class Feedback:
    """What is to be made better; the agent works on, or the flow goes on with it.

    Args:
        text: The feedback. Empty is as good as `Approve`.

    Example::

        from crewai_dbos.control import Feedback

        comment = Feedback("Shorter, please.")
    """

    text: str


@dataclass(frozen=True)
class Reply:
    """What was asked for.

    Args:
        value: A text, or JSON data that fits the schema of the question.

    Example::

        from crewai_dbos.control import Reply

        account = Reply({"number": "4711"})
    """

    value: Any


Answer = Approve | Reject | Feedback | Reply

_ALLOWED: dict[str, tuple[type, ...]] = {
    "approval": (Approve, Reject),
    "review": (Approve, Feedback),
    "feedback": (Approve, Feedback),
    "question": (Reply,),
    "budget": (Approve, Reject),
}


def reply_from(text: str, schema: Mapping[str, Any] | None) -> Any:
    """What somebody has typed, as a `Reply`: JSON, where no text is asked for."""
    if schema is None or schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def checked(request: Request, answer: Answer) -> dict[str, Any]:
    """What is stored of `answer`.

    Raises:
        InvalidAnswer: It is of another kind than the request, or does not fit the schema.
        NotAllowed: It changes what may not be changed.
    """
    allowed = _ALLOWED[request.kind]
    if not isinstance(answer, allowed):
        names = " or ".join(
            f"{each.__name__} (crewai-dbos inbox {each.__name__.lower()})" for each in allowed
        )
        raise InvalidAnswer(
            f"Request {request.request_id} is {_ABOUT[request.kind]}, which is answered with "
            f"{names}, not {type(answer).__name__}."
        )
    outcomes = request.question.outcomes
    if isinstance(answer, Approve) and request.kind == "feedback" and outcomes:
        # It would be no feedback, of which crewAI makes the default outcome: that may be a no.
        raise InvalidAnswer(
            f"Request {request.request_id} goes on with one of {', '.join(outcomes)}, by what you "
            f"say of it: Feedback({outcomes[0]!r}) (crewai-dbos inbox feedback). Approve says "
            "nothing of that."
        )
    if isinstance(answer, Approve):
        edited = _edited(request, answer.arguments)
        if request.kind == "budget":
            # That limit, and not what would be proposed by the time that the run reads it.
            limits = {**(request.question.arguments or {}), **edited.get("arguments", {})}
            edited = {"arguments": limits}
        return {"is": "approve", **edited}
    if isinstance(answer, Reject):
        return {"is": "reject", "reason": _text(request, answer.reason)}
    if isinstance(answer, Feedback):
        return {"is": "feedback", "text": _text(request, answer.text)}
    _check_schema(request, "The reply", answer.value, request.question.schema or {"type": "string"})
    return {"is": "reply", "value": answer.value}


_ABOUT = {
    "approval": "about a tool call",
    "review": "about a task's result",
    "feedback": "about what a flow's method returned",
    "question": "a question",
    "budget": "about a budget",
}


def _edited(request: Request, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise InvalidAnswer(
            f"The arguments of request {request.request_id} are named: an object, as "
            f'{{"to": "ann"}}, and not {type(arguments).__name__}.'
        )
    if request.kind not in ("approval", "budget"):
        raise InvalidAnswer(
            f"Request {request.request_id} is {_ABOUT[request.kind]}: there are no arguments to "
            "change."
        )
    question = request.question
    given = question.arguments or {}
    changed = {n: v for n, v in arguments.items() if n not in given or given[n] != v}
    if not changed:
        return {}
    if not question.edit:
        raise NotAllowed(
            f"The arguments of {question.tool} may not be changed (request {request.request_id}). "
            "Approve it as it is, or reject it."
        )
    schema = question.schema or {}
    unknown = sorted(changed.keys() - {*given, *schema.get("properties", {})})
    if unknown and not schema.get("additionalProperties"):
        told = ", ".join(map(repr, unknown))
        raise InvalidAnswer(
            f"The budget has no limit {told} (request {request.request_id})."
            if request.kind == "budget"
            else f"{question.tool} has no argument {told} (request {request.request_id}). The tool "
            "itself can't be changed."
        )
    what = "The limit" if request.kind == "budget" else "The arguments"
    _check_schema(request, what, {**given, **changed}, schema)
    return {"arguments": changed}


def _text(request: Request, text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidAnswer(
            f"Request {request.request_id} wants a text, not {type(text).__name__}."
        )
    return text


def _check_schema(request: Request, what: str, value: Any, schema: dict[str, Any]) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidAnswer(
            f"{what} of request {request.request_id} can't be stored as JSON: {error}."
        ) from None
    # An empty registry: nothing that a schema refers to is fetched.
    validator = validator_for(schema)(schema, registry=Registry())
    found = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.path)))
    if found:
        errors = [(".".join(map(str, error.path)), error.message) for error in found]
        told = "; ".join(f"{path}: {why}" if path else why for path, why in errors[:5])
        raise InvalidAnswer(f"{what} of request {request.request_id} does not fit: {told}.", errors)
