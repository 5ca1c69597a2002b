"""Objects of a provider's SDK that have no JSON form, as what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crewai_dbos._secrets.words import names_a_secret
from crewai_dbos._stored.codec import encode
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.errors import UnstorableValueError


@dataclass(frozen=True, repr=False)
class RecordedObject(Mapping[str, Any]):
    """Stands in for an object: its public attributes, by name, and as a mapping.

    Attributes:
        _recorded_class: The import path of its class.
        _recorded: What it held.
    """

    _recorded_class: str
    _recorded: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__.get("_recorded", {})  # none yet in one that is being copied
        if name.startswith("__") or name not in held:
            what = self.__dict__.get("_recorded_class", "object")
            raise AttributeError(f"The recorded {what} has no {name!r}")
        return held[name]

    def __getitem__(self, name: str) -> Any:
        return self._recorded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._recorded)

    def __len__(self) -> int:
        return len(self._recorded)

    def __repr__(self) -> str:
        return f"{self._recorded_class.rpartition(':')[2]}({self._recorded!r})"


def as_data(value: Any, known: Iterable[type] = ()) -> Any:
    """`value`, in which a `RecordedObject` stands for each object that has no JSON form.

    Args:
        value: What an LLM has answered.
        known: Classes that need not be importable.

    Raises:
        UnstorableValueError: It can't be seen what an object in it holds.
    """
    return _Copies(known).of(value)


class _Copies:
    """The copies of one value: of an object that stands in several places of it, one."""

    def __init__(self, known: Iterable[type]) -> None:
        self._known = tuple(known)
        # With the object: one that a mapping makes on the way would leave its id to another.
        self._made: dict[int, tuple[Any, RecordedObject]] = {}

    def of(self, value: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(self.of(item) for item in value)
        if type(value) is dict:
            return {key: self.of(item) for key, item in value.items()}
        if id(value) in self._made:
            return self._made[id(value)][1]
        try:
            encode(value, self._known)
            return value
        except UnstorableValueError:
            if not (held := _held_by(value)):
                raise
            copied = {name: self.of(item) for name, item in held.items()}
            made = RecordedObject(import_path(type(value)), copied)
            self._made[id(value)] = (value, made)
            return made


_HEADERS = {"authorization", "proxy-authorization", "cookie", "set-cookie", "api-key", "x-api-key"}


def _held_by(value: Any) -> dict[str, Any]:
    """What an object holds under names that are public and not those of credentials."""
    if isinstance(value, type) or callable(value):
        return {}
    found = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return {
        name: item
        for name, item in found.items()
        if isinstance(name, str)
        and not name.startswith("_")
        and not (isinstance(item, str) and _is_credential(name, value))
    }


def _is_credential(name: str, holder: Any) -> bool:
    # The keys of a mapping may be arguments of a tool.
    return name.lower() in _HEADERS if isinstance(holder, Mapping) else names_a_secret(name)
