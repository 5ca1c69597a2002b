"""What a form shows is what is approved, and what is cleared is not."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_dbos._http import forms
from crewai_dbos._http.problems import Problem
from crewai_dbos._http.rendering import templates
from crewai_dbos.control import Approve, Question, Request
from front.html import Form, Page

APPROVE = "Approve with these values"


def asked(properties: dict[str, Any], arguments: dict[str, Any], *required: str) -> Request:
    schema = {"type": "object", "properties": properties, "required": [*required]}
    return Request(
        request_id="r1",
        run_id="run",
        path="p",
        kind="approval",
        state="open",
        question=Question("May it?", tool="t", arguments=arguments, schema=schema),
        audience=None,
        on_deadline=None,
        created=None,
        deadline=None,
        answer=None,
        answered_by=None,
        answered=None,
    )


def form_of(request: Request) -> Form:
    html = (
        templates()
        .get_template("request.html")
        .render(
            base="",
            key="k",
            user=None,
            has_session=False,
            request=request,
            inputs=None,
            goes_on=False,
            following=None,
            fields=forms.fields_of(request),
        )
    )
    return Page(html).form(APPROVE)


def approved(request: Request, **changed: str) -> Any:
    form = form_of(request)
    given = {**form.fields, **{f"field.{name}": text for name, text in changed.items()}}
    sent = {name: forms.as_typed(text) for name, text in given.items()}
    answer = forms.answer_of(request, {**sent, "is": "approve"})
    assert isinstance(answer, Approve)
    return answer.arguments


@pytest.mark.parametrize("required", [(), ("it",)])
@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "enum": ["Schweiz", "Österreich"]}, "Österreich"),
        ({"enum": [{"a": 1}, {"a": 2}]}, {"a": 2}),
        ({"enum": [[1, 2], [3, 4]]}, [3, 4]),
        ({"enum": [1, None]}, None),
        ({"enum": ["low", "high"]}, "other"),
        ({"enum": ["low", "high"]}, "Ö\"'<>&"),
        ({"type": "boolean"}, False),
        ({"type": "string"}, "a\rb\r\nc\n"),
        ({"type": "array"}, ["Ö", {"b": "\r"}]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
    ],
)
def test_what_nobody_touches_stays(schema: Any, value: Any, required: tuple[str, ...]) -> None:
    arguments = approved(asked({"it": schema}, {"it": value}, *required))
    assert {"it": value, **arguments} == {"it": value}


def test_a_cleared_field_is_null_or_refused() -> None:
    optional = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    request = asked(
        {
            "limit": optional,
            "kind": {"enum": ["a", None]},
            "discount": {"type": "number"},
            "safe": {"type": "boolean"},
            "memo": {"type": "string"},
            "times": {"type": "integer", "default": 3},
        },
        {"limit": 50, "kind": "a", "discount": 5, "safe": True, "memo": "x"},
        "discount",
    )
    found = approved(request, limit="", kind="", memo="")
    assert (found["limit"], found["kind"], found["memo"]) == (None, None, "")
    for name in ("discount", "safe", "times"):
        with pytest.raises(Problem, match=f"{name} can't be left empty"):
            approved(request, **{name: ""})
