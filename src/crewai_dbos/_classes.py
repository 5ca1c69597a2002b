"""Classes made from the user's, with some methods overridden.

An object of the user's becomes durable by a change of its class, so that it passes every
``isinstance`` and keeps all else that it can do.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from crewai_dbos._versions import TESTED, compared
from crewai_dbos.errors import DefinitionError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

ORIGINAL = "__crewai_dbos_original__"
"""Where a class made here has the class that it was made from."""


def overrides(cls: type) -> Callable[[type[T]], type[T]]:
    """Says of a mixin that all it has overrides something of `cls`, one of crewAI's.

    Checked at once, at import: a run that could not go on as it was recorded is not begun.

    Raises:
        DefinitionError: `cls` lacks something that the mixin overrides.
    """

    def checked(mixin: type[T]) -> type[T]:
        _check(mixin, cls)
        return mixin

    return checked


def overridden(mixin: type, cls: type[T], body: Mapping[str, Any] | None = None) -> type[T]:
    """A class named as `cls` that is one, with the methods of `mixin` before its own.

    Args:
        mixin: Overrides, and nothing else: a helper of theirs is a function beside it.
        cls: The user's class, or one of crewAI's.
        body: More attributes.

    Raises:
        DefinitionError: `cls` lacks something that `mixin` overrides.
    """
    _check(mixin, cls)
    attributes = {"__module__": cls.__module__, ORIGINAL: cls, **(body or {})}
    if issubclass(cls, BaseModel):
        # Its instances are made by others, so nothing is validated with it: that takes 20 ms.
        attributes["model_config"] = ConfigDict(defer_build=True)
    made: type[T] = type(cls.__name__, (mixin, cls), attributes)
    if issubclass(made, BaseModel):
        _serialize_as_base(made)
    return made


def without_fields(cls: type[M]) -> type[M]:
    """`cls`, which is of ``defer_build`` and has the fields of its base, for all but validation.

    pydantic does the rest when somebody validates with it. Classes derived from it are whole at
    once, as they may have fields.
    """
    _serialize_as_base(cls)
    made_with = inspect.signature(cls.__init__)
    cls.__signature__ = made_with.replace(parameters=[*made_with.parameters.values()][1:])
    cls.model_config = {**cls.model_config, "defer_build": False}
    return cls


def _serialize_as_base(cls: type[BaseModel]) -> None:
    # What stands there until it is built refuses an object in a field of Any, as in a state.
    del cls.__pydantic_serializer__


def _check(mixin: type, cls: type) -> None:
    """See that each override of `mixin` overrides something: else crewAI never calls it."""
    ours = (base for base in mixin.__mro__ if base is not object)
    named = (name for base in ours for name in vars(base) if not name.startswith("__"))
    for name in named:
        if not hasattr(cls, name):
            raise DefinitionError(
                f"crewAI's class {cls.__name__} has no {name!r}, which crewai-dbos has to override "
                f"for its runs to be recorded. {compared('crewai')}. Look for a newer crewai-dbos, "
                f"or install crewai=={TESTED['crewai']}. Runs that are not finished stay as they "
                "are until then."
            )


def durable_class(mixin: type, cls: type[T]) -> type[T]:
    """As `overridden`, one class for each pair, as long as there is `cls`."""
    return kept_with(cls, mixin, lambda: overridden(mixin, cls))


def kept_with(cls: type, key: Any, make: Callable[[], type[T]]) -> type[T]:
    """What `make` has made for `key`, once; a class of a function goes when nobody has it."""
    with _making:
        made = cls.__dict__.get(_MADE)
        if made is None:
            made = {}
            type.__setattr__(cls, _MADE, made)
        if key not in made:
            made[key] = make()
        found: type[T] = made[key]
        return found


_MADE = "__crewai_dbos_made__"
_making = threading.RLock()


def replaced_methods(thing: Any) -> list[str]:
    """The methods of its class in whose place `thing` has something of its own, by name.

    They come before those of any class that is made of its class.
    """
    bases = [vars(base) for base in type(thing).__mro__]
    return sorted(name for name in vars(thing) if _is_method(_first(bases, name)))


def _first(namespaces: list[Any], name: str) -> Any:
    """What `name` stands for in the first that has it; ten times as fast as `getattr_static`."""
    for namespace in namespaces:
        if name in namespace:
            return namespace[name]
    return None


def _is_method(found: Any) -> bool:
    # What has no such name in its class, as most fields of a model, is told apart at once.
    return found is not None and (
        inspect.isroutine(found) or isinstance(found, (classmethod, staticmethod))
    )


def with_its_own(copied: Any, mixin: type) -> type:
    """A class to derive a durable one from, which does what the object itself was given to do.

    As with a mock in place of ``llm.call``: it is taken from the object, so that the overrides of
    `mixin` come first, and called by them.

    Args:
        copied: A copy of a user's object; what it has in place of what `mixin` overrides is removed
            from it.
        mixin: The overrides.
    """
    named = {name for base in mixin.__mro__ if base is not object for name in vars(base)}
    own = {name: copied.__dict__.pop(name) for name in replaced_methods(copied) if name in named}
    cls = type(copied)
    if not own:
        return cls
    copied.__dict__.setdefault(_OWN, {}).update(own)
    key = (_OWN, frozenset(own))
    return kept_with(cls, key, lambda: overridden(_Own, cls, {n: _calling(n) for n in own}))


class _Own:
    """Nothing but what the object has."""


def _calling(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[_OWN][name](*args, **kwargs)

    call.__name__ = name
    return call


_OWN = "__crewai_dbos_own__"


def original_class(cls: type) -> type:
    """The user's class that `cls` was made from, or `cls`."""
    found: type = cls.__dict__.get(ORIGINAL, cls)
    return found


def is_made_here(cls: type) -> bool:
    """Whether `cls` is, or derives from, a class made here."""
    return any(ORIGINAL in base.__dict__ for base in cls.__mro__)
