"""A form for what a person is asked, made of a JSON schema, and what somebody has put into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crewai_dbos._http.problems import Problem
from crewai_dbos._http.texts import plain_json
from crewai_dbos.control import Answer, Approve, Feedback, Reject, Reply, Request

_NUMBERS = ("integer", "number")


@dataclass(frozen=True)
class Field:
    """A field of a form.

    Attributes:
        name: Of the field in the form.
        label: For people.
        kind: ``text``, ``integer``, ``number``, ``boolean``, ``choice`` or ``json``.
        text: What it holds at first.
        value: The same as JSON data.
        is_given: Whether the request gives it a value, which may be None.
        help: What the schema says of it.
        choices: Of a choice, as JSON texts with what people see.
        required: Whether it has to hold something.
        nullable: Whether null is a value of it, which an empty field stands for.
    """

    name: str
    label: str
    kind: str
    text: str
    value: Any = None
    is_given: bool = False
    help: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = False
    nullable: bool = False


_LACKS = object()


def fields_of(request: Request) -> list[Field]:
    """What is to be filled in for a request."""
    question = request.question
    if request.kind in ("approval", "budget"):
        if not question.edit:
            return []
        return [*_of_object(question.schema or {}, question.arguments or {})]
    if request.kind != "question":
        return []
    schema = question.schema or {"type": "string"}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), Mapping):
        return [*_of_object(schema, {})]
    return [_field("value", "Reply", schema, _LACKS, required=True)]


def _of_object(schema: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Field]:
    described = schema.get("properties")
    properties: Mapping[str, Any] = described if isinstance(described, Mapping) else {}
    for name in dict.fromkeys([*given, *properties]):
        each = properties.get(name)
        required = name in (schema.get("required") or ())
        own = each if isinstance(each, Mapping) else {}
        yield _field(f"field.{name}", name, own, given.get(name, _LACKS), required)


def _field(
    name: str, label: str, schema: Mapping[str, Any], given: Any, required: bool = False
) -> Field:
    value = schema.get("default") if given is _LACKS else given
    kind, choices = _kind(schema, value)
    if kind == "text" and isinstance(value, str):
        text = value
    else:
        text = "" if value is None else _text(value, indent=None if choices else 2)
    told = schema.get("description")
    return Field(
        name=name,
        label=label,
        kind=kind,
        text=text,
        value=None if given is _LACKS else given,
        is_given=given is not _LACKS,
        help=told if isinstance(told, str) else "",
        choices=choices,
        required=required,
        nullable=_is_nullable(schema),
    )


def _text(value: Any, indent: int | None = None) -> str:
    """JSON data as it stands in a field, and as a choice of one: the two are compared."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _is_nullable(schema: Mapping[str, Any]) -> bool:
    alternatives = schema.get("anyOf")
    each = [schema, *(alternatives if isinstance(alternatives, list) else [])]
    return any(
        o.get("type") == "null"
        or (isinstance(o.get("type"), list) and "null" in o["type"])
        or (isinstance(o.get("enum"), list) and None in o["enum"])
        for o in each
        if isinstance(o, Mapping)
    )


def _kind(schema: Mapping[str, Any], value: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return "choice", tuple((_text(o), o if isinstance(o, str) else _text(o)) for o in options)
    kind = schema.get("type")
    if kind is None and isinstance(schema.get("anyOf"), list):
        kinds = [o.get("type") for o in schema["anyOf"] if isinstance(o, Mapping)]
        others = [each for each in kinds if each != "null"]
        kind = others[0] if len(others) == 1 and len(kinds) > len(others) else None
    if kind == "string" and isinstance(value, (str, type(None))):
        return "text", ()
    if kind == "boolean":
        return "boolean", (("true", "yes"), ("false", "no"))
    if kind in _NUMBERS and (value is None or isinstance(value, (int, float))):
        return str(kind), ()
    return "json", ()


def answer_of(request: Request, form: Mapping[str, str]) -> Answer:
    """What somebody has put into the form of a request.

    Raises:
        Problem: It can't be read.
    """
    said = form.get("is")
    if said == "reject":
        return Reject(form.get("reason", ""))
    if said == "feedback":
        return Feedback(form.get("reason", ""))
    if said == "approve":
        fields = fields_of(request)
        return Approve(_read(fields, form) if fields else None)
    if said == "reply":
        fields = fields_of(request)
        read = _read(fields, form)
        return Reply(read.get("Reply") if fields and fields[0].name == "value" else read)
    raise Problem(422, "Approve, reject, feedback or reply?", "invalid")


def _read(fields: list[Field], form: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields:
        given = form.get(field.name)
        if given is None:
            continue
        is_as_shown = given == as_typed(field.text)
        if is_as_shown and field.is_given:
            found[field.label] = field.value  # as it was shown: it keeps its real value
        elif is_as_shown and not field.required:
            continue  # a default, which the tool has itself
        elif given or (field.kind == "text" and (field.required or field.text)):
            found[field.label] = given if field.kind == "text" else _json(field, given)
        elif field.text and field.nullable:
            found[field.label] = None
        elif field.text:
            # Left out, the value that somebody has cleared would be used.
            raise Problem(422, f"{field.label} can't be left empty.", "invalid")
    return found


def _json(field: Field, text: str) -> Any:
    try:
        return plain_json(json.loads(text))
    except (ValueError, RecursionError):
        wanted = {"integer": "a whole number", "number": "a number"}.get(field.kind, "JSON")
        raise Problem(422, f"{field.label} is {wanted}, not {text[:50]!r}.", "invalid") from None


def as_typed(text: str) -> str:
    """A text as somebody has typed it: a browser sends line breaks as two characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
