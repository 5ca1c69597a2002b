"""The fields of a state and the attributes of a flow, by name.

A name is a key of a state that is a dict, a field of one that is a model, or ``self.`` and an
attribute of the flow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from crewai.flow.flow import Flow

from crewai_dbos._classes import original_class
from crewai_dbos._crewai_seam.flow import OF_THE_ENGINE as _OF_THE_ENGINE
from crewai_dbos._stored import changed, codec, hidden

ATTRIBUTE = "self."
"""Stands before the name of an attribute of the flow, as opposed to a field of its state."""

_KEY = "key:"
OURS = "_crewai_dbos"
OF_THE_ENGINE = {*_OF_THE_ENGINE, "conversational"}
_SETTINGS = {
    "max_method_calls",
    "suppress_flow_events",
    "tracing",
    "input_provider",
    "persistence",
}
"""The fields of a flow that a method may set for those after it."""

_ENGINE = frozenset({*Flow.model_fields, *OF_THE_ENGINE} - _SETTINGS)
PRIVATE_TO_CREWAI = frozenset(Flow.__private_attributes__)

OF_NO_METHOD = _ENGINE | PRIVATE_TO_CREWAI
"""What a flow has beside the attributes in which a user keeps something."""

SCALARS = (str, int, float, bool, bytes, type(None))


def without_prefix(name: str) -> str:
    return name.removeprefix(ATTRIBUTE)


def as_name(key: Any) -> str:
    """A key of a dict as the name of a field. Most are strings, and names of themselves."""
    if type(key) is str and not key.startswith((ATTRIBUTE, _KEY)):
        return key
    return _KEY + json.dumps(codec.encode(key))


def as_key(name: str) -> Any:
    return codec.decode(json.loads(name[len(_KEY) :])) if name.startswith(_KEY) else name


def own_dict(owner: Any) -> dict[str, Any]:
    found: dict[str, Any] = object.__getattribute__(owner, "__dict__")
    return found


def own_private(owner: Any) -> dict[str, Any]:
    """The private attributes of a model, which pydantic keeps apart."""
    found: dict[str, Any] | None = object.__getattribute__(owner, "__pydantic_private__")
    return found or {}


class Fields:
    """Something with fields: a state."""

    def __init__(self, prefix: str, owner: Any) -> None:
        self.prefix = prefix
        self.owner = owner

    def items(self) -> list[tuple[str, Any]]:
        if isinstance(self.owner, dict):
            return [(as_name(key), value) for key, value in dict.items(self.owner)]
        extra, private = self.owner.__pydantic_extra__, own_private(self.owner)
        return list({**own_dict(self.owner), **(extra or {}), **private}.items())

    def hidden(self) -> set[str]:
        """The names of those that are not stored, because the class hides them."""
        if isinstance(self.owner, dict):
            return set()
        return {self.prefix + name for name in hidden.names(original_class(type(self.owner)))}

    def get(self, name: str) -> Any:
        return dict(self.items()).get(name)

    def name_now(self, name: str) -> str:
        """What a field is called that was stored as `name`."""
        if isinstance(self.owner, dict):
            return name
        return changed.name_now(original_class(type(self.owner)), name) or name

    def set(self, name: str, value: Any) -> None:
        name = self.name_now(name)
        if isinstance(self.owner, dict):
            dict.__setitem__(self.owner, as_key(name), value)
        elif name in type(self.owner).__private_attributes__:
            self.owner.__pydantic_private__[name] = value
        elif name in type(self.owner).model_fields or self.owner.__pydantic_extra__ is None:
            own_dict(self.owner)[name] = value
        else:
            self.owner.__pydantic_extra__[name] = value

    def explicit(self) -> frozenset[str]:
        """The fields that somebody has set: those that are none of a model's defaults."""
        if isinstance(self.owner, dict):
            return frozenset()
        return frozenset(self.owner.__pydantic_fields_set__)

    def set_explicit(self, names: Iterable[str]) -> None:
        """Have no others than these be so."""
        if not isinstance(self.owner, dict):
            found = set(map(self.name_now, names))
            object.__setattr__(self.owner, "__pydantic_fields_set__", found)

    def delete(self, name: str) -> None:
        if isinstance(self.owner, dict):
            dict.pop(self.owner, as_key(name), None)
        else:
            extra = self.owner.__pydantic_extra__ or {}
            for place in (own_dict(self.owner), extra, own_private(self.owner)):
                place.pop(name, None)


class Attributes(Fields):
    """What a user keeps in a flow beside the state."""

    def items(self) -> list[tuple[str, Any]]:
        found = {
            name: value
            for name, value in own_dict(self.owner).items()
            if name not in _ENGINE and not name.startswith(OURS)
        }
        private = own_private(self.owner).items()
        own = {name: value for name, value in private if name not in PRIVATE_TO_CREWAI}
        return list({**found, **own}.items())

    def hidden(self) -> set[str]:
        # crewAI excludes every attribute of a flow; what the user has made private is private.
        cls: Any = original_class(type(self.owner))
        own = set(cls.__private_attributes__) - PRIVATE_TO_CREWAI
        return set() if hidden.stores_hidden(cls) else {self.prefix + name for name in own}

    def set(self, name: str, value: Any) -> None:
        private = type(self.owner).__private_attributes__
        place = self.owner.__pydantic_private__ if name in private else own_dict(self.owner)
        place[name] = value

    def delete(self, name: str) -> None:
        for place in (own_dict(self.owner), own_private(self.owner)):
            place.pop(name, None)
