"""Fields that a pydantic model does not show: those with ``exclude=True``, and private attributes.

A key or a client is often kept there, so they are not stored, unless the class says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel

logger = logging.getLogger("crewai_dbos")

M = TypeVar("M", bound=type[BaseModel])

_STORED = "__crewai_dbos_stores_hidden__"
# What these hide is data: an embedding, the type of a file.
_LIBRARIES = ("crewai", "crewai_files", "openai", "anthropic", "google")

_found: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()
_told: set[str] = set()


def store_hidden(cls: M) -> M:
    """Have the excluded fields and private attributes of a pydantic model stored with a run.

    By default they are not: a field with ``exclude=True`` or a private attribute has its default
    when a run goes on in another process, and a method of a flow that has set one in the state is
    run again. Use this for classes that keep nothing secret there.

    Args:
        cls: The model; models derived from it are included.

    Returns:
        `cls`.

    Raises:
        TypeError: It is no pydantic model.

    Example::

        from crewai_dbos import store_hidden
        from pydantic import BaseModel, PrivateAttr

        @store_hidden
        class State(BaseModel):
            visits: int = 0
            _seen: list[str] = PrivateAttr(default_factory=list)
    """
    if not (isinstance(cls, type) and issubclass(cls, BaseModel)):
        raise TypeError(f"store_hidden takes a pydantic model class, not {cls!r}")
    setattr(cls, _STORED, True)
    _found.clear()
    return cls


def stores_hidden(cls: type) -> bool:
    """Whether the user has asked for what `cls` hides to be stored."""
    return bool(getattr(cls, _STORED, False))


def names(cls: Any) -> frozenset[str]:
    """The excluded fields and private attributes of a model class, unless they are stored."""
    found = _found.get(cls)
    if found is None:
        found = _found[cls] = frozenset(() if _are_stored(cls) else hidden_by(cls))
    return found


def hidden_by(cls: Any) -> set[str]:
    """The excluded fields and private attributes of a model class."""
    excluded = {name for name, field in cls.model_fields.items() if field.exclude is True}
    return excluded | set(cls.__private_attributes__)


def _are_stored(cls: type) -> bool:
    return stores_hidden(cls) or cls.__module__.partition(".")[0] in _LIBRARIES


def tell_of(cls: type, left_out: Iterable[str]) -> None:
    """Say once for each class which of its fields are not stored."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in _told:
        return
    _told.add(name)
    logger.warning(
        "%s of %s: not stored, as excluded fields and private attributes may hold secrets. After "
        "a recovery they have their defaults. If they hold none: @crewai_dbos.store_hidden",
        ", ".join(sorted(left_out)),
        name,
    )
