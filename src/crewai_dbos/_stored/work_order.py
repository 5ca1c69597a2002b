"""The order of a run as it is stored: what it is a run of, and what it is asked to do.

``{"v": 2, "crew": "research", "inputs": {"topic": "otters"}}``. A field that `codec` had to write
with forms is named in ``forms``; every other field is plain JSON and is taken as it stands, so that
another program may put a user's JSON into an order without anything in it being read as a class.
Where the application has a serializer of its own, the fields go through it, as ``sealed``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dbos import Serializer

from crewai_dbos._stored import budget, codec, context, names, sealing
from crewai_dbos._stored.budget import Budget
from crewai_dbos._stored.forms import Json
from crewai_dbos._stored.redaction import Redact, redacted
from crewai_dbos.errors import UnstorableInputError, UnstorableValueError

Order = dict[str, Any]

BUDGET = "budget"
"""The field with the budget of this run alone."""

NOUNS = ("agent", "crew", "flow")
"""The fields of which an order has one: the name of its definition."""

_IN_THE_CLEAR = ("v", *NOUNS, "method", "forms", "items", "limits", BUDGET)
TASK_MODELS = ("output_pydantic", "output_json", "response_model")
"""The fields of a task that hold a model class."""

MODELS = ("response_format", *TASK_MODELS)
"""Fields that are names of models."""

_NAMES = ("tools", *MODELS)
"""Fields that are names of tools and classes."""

CONTEXT = "context"
"""The field with the values of `store_context`."""

_FORMS = "forms"
_SEALED = "sealed"


def written(
    head: Mapping[str, Any], fields: Mapping[str, Json], redact: Redact | None = None
) -> Order:
    """An order as plain JSON.

    Args:
        head: What it is for: ``{"crew": "research"}``.
        fields: What `codec.encode` has made of each field.
        redact: What the texts in them go through.
    """
    if (values := context.encoded()) is not None:
        fields = {**fields, CONTEXT: values}
    if (given := budget.for_run()) is not None:
        head = {**head, BUDGET: budget.as_json(given)}
    if redact is not None:
        fields = {name: _redacted(name, data, redact) for name, data in fields.items()}
    forms = [name for name, data in fields.items() if _has_forms(data)]
    return {
        "v": names.INPUT_VERSION,
        **head,
        **fields,
        **({_FORMS: forms} if forms else {}),
    }


def _redacted(name: str, data: Json, redact: Redact) -> Json:
    if name == "task":
        return {field: _redacted(field, item, redact) for field, item in data.items()}
    return data if name in _NAMES else redacted(data, redact)


def encoded(what: str, value: Any, known: Iterable[type] = ()) -> Json:
    """`value` as a field of an order.

    Raises:
        UnstorableInputError: It has no JSON form.
    """
    try:
        return codec.encode(value, known)
    except (UnstorableValueError, RecursionError) as error:
        why = error if isinstance(error, UnstorableValueError) else "it is nested too deep"
        raise UnstorableInputError(f"{what} can't be stored with the run: {why}") from None


def sealed(order: Order, serializer: Serializer | None = None) -> Order:
    """`order` as it is handed to DBOS.

    Args:
        serializer: That of an application whose DBOS instance is in another process.
    """
    if serializer is None and not sealing.is_wanted():
        return order
    if "items" in order:
        return {**order, "items": [sealed(item, serializer) for item in order["items"]]}
    clear = {name: field for name, field in order.items() if name in _IN_THE_CLEAR}
    content = {name: field for name, field in order.items() if name not in _IN_THE_CLEAR}
    return {**clear, _SEALED: sealing.seal(content, serializer)}


def opened(stored: Mapping[str, Any], serializer: Serializer | None = None) -> Order:
    """The reverse of `sealed`.

    Args:
        serializer: As of `sealed`.

    Raises:
        SealedError: It was sealed by another serializer, or with a key that is not here.
        UnstorableValueError: It is no order.
    """
    if not is_order(stored):
        raise UnstorableValueError("The order of the run was not written by crewai-dbos")
    if _SEALED not in stored:
        return dict(stored)
    clear = {name: field for name, field in stored.items() if name != _SEALED}
    content = sealing.opened(stored[_SEALED], serializer)
    if not isinstance(content, Mapping) or set(content) & set(clear):
        raise UnstorableValueError("The order of the run was not written by crewai-dbos")
    return {**clear, **content}


def with_inputs(order: Order, inputs: Mapping[str, Any]) -> Order:
    """`order`, as `opened` gives it, with other inputs.

    Raises:
        UnstorableInputError: They have no JSON form.
    """
    data = encoded("The inputs", dict(inputs))
    forms = [name for name in order.get(_FORMS, ()) if name != "inputs"]
    forms += ["inputs"] if _has_forms(data) else []
    changed = {name: field for name, field in order.items() if name != _FORMS}
    return {**changed, "inputs": data, **({_FORMS: forms} if forms else {})}


def label(order: Any) -> dict[str, str] | None:
    """What `order` is one of, sealed or not, as it stands in the attributes of its run.

    Returns:
        ``{"definition": "research", "kind": "crew"}``; None if it is no order.
    """
    if not is_order(order):
        return None
    noun = next((noun for noun in NOUNS if isinstance(order.get(noun), str)), None)
    if noun is None:
        return None
    return {"definition": order[noun], "kind": "batch" if "items" in order else noun}


def is_order(stored: Any) -> bool:
    """Whether `stored` has the form of an order that can be read."""
    return isinstance(stored, Mapping) and stored.get("v") in (1, names.INPUT_VERSION)


def is_in_the_clear(stored: Any) -> bool:
    """Whether it is an order of an application that does not encrypt."""
    if not is_order(stored):
        return False
    each = stored["items"] if isinstance(stored.get("items"), list) else [stored]
    return not any(isinstance(item, Mapping) and _SEALED in item for item in each)


def check(order: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuse an order with other fields than these.

    Raises:
        UnstorableValueError: It has one.
    """
    for name in order:
        if name not in (*allowed, "v", _FORMS, CONTEXT, BUDGET):
            raise UnstorableValueError(f"The order of the run has an unknown field {name!r}")


def field(order: Mapping[str, Any], name: str, known: Iterable[type] = ()) -> Any:
    """The value of a field; None if the order does not have it.

    Raises:
        UnstorableValueError: It was not written by `codec`.
    """
    data = order.get(name)
    # Version 1 did not say which of its fields have forms.
    if order["v"] == 1 or name in order.get(_FORMS, ()):
        return codec.decode(data, known)
    return data


def context_of(order: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of context variables that came with an order.

    Raises:
        UnstorableValueError: They were not written by `codec`.
    """
    values = field(order, CONTEXT) or {}
    if not isinstance(values, Mapping):
        raise UnstorableValueError("the values of context variables are a mapping of their names")
    return values


def budget_of(order: Mapping[str, Any]) -> Budget | None:
    """The budget that an order came with.

    Raises:
        UnstorableValueError: It can't be read.
    """
    return budget.budget_from(order.get(BUDGET))


def _has_forms(data: Json) -> bool:
    if isinstance(data, dict):
        return next(iter(data), "").startswith("$") or any(map(_has_forms, data.values()))
    return isinstance(data, list) and any(map(_has_forms, data))
