"""What a class has gained, lost or renamed since a value of it was stored.

A value is read with the class of now, and is not validated again. A field that is new has its
default; one that is gone is dropped, unless a field of now has its name as an alias. A default that
a function makes is made outside the run that reads the value: what it recorded there would be asked
for by nobody else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from contextvars import Context
from typing import Any

from pydantic import AliasChoices
from pydantic_core import PydanticUndefined

from crewai_dbos._stored import hidden, modules
from crewai_dbos._stored.type_paths import import_path
from crewai_dbos.errors import UnstorableValueError

logger = logging.getLogger("crewai_dbos")

_told: set[tuple[str, str]] = set()


def names_now(cls: Any, stored: Collection[str]) -> dict[str, str]:
    """What the fields of a model that were stored so are called now; the others are gone."""
    fields = cls.model_fields
    names = {name: name for name in stored if name in fields}
    if len(names) < len(stored):
        by_alias = {
            alias: now
            for now, each in reversed(fields.items())
            for alias in _aliases(each)
            if type(alias) is str
        }
        gone = [name for name in stored if name not in names]
        names.update({name: by_alias[name] for name in gone if name in by_alias})
    return names


def name_now(cls: Any, name: str) -> str | None:
    """What the field of a model is called that was stored as `name`; None if there is none."""
    return names_now(cls, {name}).get(name)


def _aliases(field: Any) -> list[Any]:
    given = field.validation_alias
    return [field.alias, *(given.choices if isinstance(given, AliasChoices) else [given])]


def of_model(
    cls: Any, stored: Mapping[str, Any], names: Mapping[str, str], lacks: Collection[str]
) -> dict[str, Any]:
    """The fields of a model.

    Args:
        cls: Its class.
        stored: Those that are stored.
        names: What `names_now` says of them.
        lacks: Those that it had no value for when it was stored.

    Raises:
        UnstorableValueError: One of now has no default.
    """
    found = {name: value for name, value in stored.items() if name in cls.model_fields}
    for name, now in names.items():
        found.setdefault(now, stored[name])
    new = [n for n in cls.model_fields if n not in found and n not in lacks]
    found.update(defaults(cls, cls.model_fields, new, found))
    hides = hidden.names(cls)
    _check_complete(cls, [name for name in new if name not in found and name not in hides])
    return {name: found[name] for name in cls.model_fields if name in found}


def of_dataclass(cls: Any, stored: Mapping[str, Any], lacks: Collection[str]) -> dict[str, Any]:
    """The same for a dataclass. What it has lost stays with it, where it has a place for that."""
    declared = {each.name: each for each in dataclasses.fields(cls)}
    has_dict = any("__dict__" in vars(base) for base in cls.__mro__)
    found = {name: value for name, value in stored.items() if has_dict or name in declared}
    new = [name for name in declared if name not in found and name not in lacks]
    of_pydantic = cls.__dict__.get("__pydantic_fields__")
    if isinstance(of_pydantic, dict):
        found.update(defaults(cls, of_pydantic, new, found))
    else:
        found.update(_dataclass_defaults(cls, [declared[name] for name in new]))
    # One that no constructor sets may not be there yet.
    may_lack = {name for name, each in declared.items() if not each.init}
    _check_complete(cls, [n for n in new if n not in found and n not in may_lack])
    return found


def of_tuple(cls: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    """The items of a named tuple, with the fields that it has gained or lost at its end."""
    # Not by getattr: a metaclass may do anything then.
    names, given = (_defined(cls, name) for name in ("_fields", "_field_defaults"))
    if type(names) is not tuple or type(given) is not dict:
        return items
    new = names[len(items) :]
    _check_complete(cls, [name for name in new if name not in given])
    return (*items[: len(names)], *(given[name] for name in new if name in given))


def _defined(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def defaults(
    cls: Any, declared: Mapping[str, Any], names: Collection[str], others: Mapping[str, Any]
) -> dict[str, Any]:
    """What these fields, or private attributes, of a model begin with; others have no default."""
    found: dict[str, Any] = {}
    for name in names:
        each = declared.get(name)
        if each is None:  # of a pydantic dataclass, which sets it itself
            continue
        if each.default_factory is None:
            value = each.get_default()
        elif not _may_be_called(each.default_factory, cls, name):
            continue
        elif getattr(each, "default_factory_takes_validated_data", False):
            value = _made_of({**others, **found}, each.default_factory)
        else:
            value = Context().run(each.default_factory)
        if value is not PydanticUndefined:
            found[name] = value
    return found


def _made_of(fields: dict[str, Any], factory: Any) -> Any:
    try:
        return Context().run(factory, fields)
    except KeyError:  # of a field that is not there either
        return PydanticUndefined


def _dataclass_defaults(cls: Any, declared: Collection[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in declared:
        if each.default is not dataclasses.MISSING:
            found[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING and _may_be_called(
            each.default_factory, cls, each.name
        ):
            found[each.name] = Context().run(each.default_factory)
    return found


def _may_be_called(factory: object, cls: type, name: str) -> bool:
    if modules.may_be_called(factory, cls):
        return True
    if name.startswith("_"):
        return False  # a lock, a client: what a library keeps for itself
    key = (import_path(cls), name)
    if key not in _told:
        _told.add(key)
        logger.warning(
            "A %s is recorded without its field %s, whose default a function of a library makes, "
            "so it is left without. To have it called: crewai_dbos.allow_modules(%r)",
            key[0],
            name,
            cls.__module__,
        )
    return False


def _check_complete(cls: type, lacking: list[str]) -> None:
    # What a library has left out itself, nobody here can give a default.
    if lacking and modules.is_of_a_definition(cls):
        raise UnstorableValueError(
            f"{import_path(cls)} has the field {lacking[0]!r} now, which was not stored. Give it a "
            "default, for values that are recorded without it."
        )
