"""What a method did to the state of its flow, told apart from what others did at the same time.

A state, and whatever else a flow keeps in attributes, is shared by methods that run side by side. A
method is credited with the fields that it touched and that have changed since the last entry; who
touches what is seen in the state's own class.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from crewai.flow.flow import Flow
from pydantic import BaseModel

from crewai_dbos import _codec
from crewai_dbos._classes import original_class, overridden
from crewai_dbos._errors import UnstorableValueError

ATTRIBUTE = "self."
"""Stands before the name of an attribute of the flow, as opposed to a field of its state."""

_KEY = "key:"
_OURS = "_crewai_dbos"
_OF_THE_ENGINE = {
    "_flow_post_init_done",
    "_skip_auto_memory",
    "_deferred_flow_started_event_id",
    "conversational",
}
_SETTINGS = {
    "max_method_calls",
    "suppress_flow_events",
    "tracing",
    "input_provider",
    "persistence",
}
"""The fields of a flow that a method may set for those after it."""

_SCALARS = (str, int, float, bool, bytes, type(None))


@dataclass
class Execution:
    """A method at work.

    Attributes:
        path: Its place in the run.
        outer: The method of another flow that it is part of.
        touched: The fields that it may have changed, each with the id of what it is a field of.
        credited: Whether it has been credited with its changes; it makes no more.
    """

    path: str
    outer: Execution | None = None
    touched: set[tuple[int, str]] = field(default_factory=set)
    credited: bool = False


_at_work: ContextVar[Execution | None] = ContextVar("crewai_dbos_execution", default=None)


def current() -> Execution | None:
    """The method that the running code is part of."""
    return _at_work.get()


@contextmanager
def at_work(execution: Execution) -> Iterator[None]:
    """The block, and what it starts, is part of `execution`."""
    token = _at_work.set(execution)
    try:
        yield
    finally:
        _at_work.reset(token)


def _touch(owner: Any, name: str) -> None:
    execution = _at_work.get()
    while execution is not None:
        execution.touched.add((id(owner), name))
        execution = execution.outer


def touch_attribute(flow: Any, name: str, value: Any, *, changed: bool = False) -> None:
    """An attribute of `flow` was set, or read as `value`, by the method at work."""
    if _at_work.get() is None or name in _OF_THE_ENGINE or name.startswith(_OURS):
        return
    private = flow.__pydantic_private__ or {}
    if changed or (not isinstance(value, _SCALARS) and (name in _dict(flow) or name in private)):
        _touch(flow, name)


@dataclass(frozen=True)
class Changes:
    """What a method is credited with.

    Attributes:
        values: The fields that changed, with what they are now.
        removed: The fields that are gone.
        unsettled: Of those the ones that another method, still at work, had touched too, with the
            paths of these: until they have ended, the value may be half of theirs.
        unstorable: Fields that changed and have no JSON form, with the reason.
    """

    values: dict[str, Any] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    unsettled: dict[str, list[str]] = field(default_factory=dict)
    unstorable: dict[str, str] = field(default_factory=dict)


def classes(flow: Flow[Any]) -> tuple[type, ...]:
    """Classes in what `flow` keeps that need not be importable: crewAI makes some for states."""
    return (original_class(type(flow._state)),)


class FlowState:
    """The state and the attributes of the flow of one run.

    Args:
        flow: The flow, before its first method.
    """

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow
        self._watch()
        self.known = classes(flow)
        self._committed = {name: mark for name, mark, _, _ in self._fields()}

    def initial(self) -> dict[str, Any]:
        """For `begin`: the fields of the state, and the names of those without a JSON form."""
        fields = [field for field in self._fields() if not field[0].startswith(ATTRIBUTE)]
        return {
            "fields": {name: stored for name, _, stored, _ in fields if stored is not None},
            "unstorable": [name for name, _, stored, _ in fields if stored is None],
        }

    def begin(self, initial: Mapping[str, Any]) -> None:
        """Put the state back that the run began with."""
        kept = {*initial["fields"], *initial["unstorable"]}
        new = [name for name in self.initial()["fields"] if name not in kept]
        differing = {
            name: value
            for name, value in initial["fields"].items()
            if _stored(value, self.known)[0] != self._committed.get(name)
        }
        self.apply(differing, new)

    def touch(self, values: Iterable[Any]) -> None:
        """The method at work has been given `values`, which may be fields."""
        for value in values:
            if path := self.name_of(value):
                _touch(self._owner(path[0]).owner, _bare(path[0]))

    def changes(self, execution: Execution, others: Sequence[Execution]) -> Changes:
        """What `execution`, which has ended, is credited with. Asked once for each.

        Args:
            execution: The method.
            others: Those that are at work beside it.
        """
        self._watch()
        execution.credited = True
        others = [other for other in others if not other.credited]
        found = Changes()
        left = dict(self._committed)
        for name, mark, stored, why in self._fields():
            if left.pop(name, None) == mark or not self._is_of(execution, name, others, found):
                continue
            self._committed[name] = mark
            if stored is None:
                found.unstorable[name] = why
            else:
                found.values[name] = stored
        for name in left:
            if self._is_of(execution, name, others, found):
                del self._committed[name]
                found.removed.append(name)
        return found

    def apply(self, values: Mapping[str, Any], removed: Iterable[str] = ()) -> None:
        """Put back what a method that is not run again did."""
        for name, value in values.items():
            self._owner(name).set(_bare(name), value)
        for name in removed:
            self._owner(name).delete(_bare(name))
        for name, mark, _, _ in self._fields({*values, *removed}):
            self._committed[name] = mark
        for name in removed:
            self._committed.pop(name, None)

    def name_of(self, value: Any) -> list[Any] | None:
        """Where `value` is to be found, if it can be changed: in a field, or the state itself."""
        if value is self._flow._state:
            return []
        if isinstance(value, _SCALARS):
            return None
        for owner in self._owners():
            for name, item in owner.items():
                if (inside := _find(value, item)) is not None:
                    return [owner.prefix + name, *inside]
        return None

    def named(self, path: Sequence[Any]) -> Any:
        """The reverse of `name_of`."""
        if not path:
            return self._flow._state
        found = self._owner(path[0]).get(_bare(path[0]))
        for part in path[1:]:
            found = getattr(found, part) if isinstance(found, BaseModel) else found[part]
        return found

    def release(self) -> None:
        """Watch no more: the state has its own class again."""
        state = self._flow._state
        if isinstance(state, _TrackedModel):
            state.__class__ = original_class(type(state))
        elif isinstance(state, _TrackedDict):
            self._flow._state = dict(state)

    def _watch(self) -> None:
        state = self._flow._state
        if isinstance(state, BaseModel) and not isinstance(state, _TrackedModel):
            # Not kept: crewAI may have made the class for this one state.
            state.__class__ = overridden(_TrackedModel, type(state))
        elif isinstance(state, dict) and not isinstance(state, _TrackedDict):
            self._flow._state = _TrackedDict(state)

    def _is_of(
        self, execution: Execution, name: str, others: Sequence[Execution], found: Changes
    ) -> bool:
        """Whether a change of the field is credited to `execution`."""
        key = (id(self._owner(name).owner), _bare(name))
        sharing = [other.path for other in others if key in other.touched]
        if sharing and key not in execution.touched:
            return False
        if sharing:
            found.unsettled[name] = sharing
        return True

    def _fields(self, only: set[str] | None = None) -> list[tuple[str, str, Any, str]]:
        """Name, what changes with the value, its JSON form, and why there is none."""
        return [
            (owner.prefix + name, *_stored(value, self.known))
            for owner in self._owners()
            for name, value in owner.items()
            if only is None or owner.prefix + name in only
        ]

    def _owners(self) -> list[_Owner]:
        return [_Owner("", self._flow._state), _Attributes(ATTRIBUTE, self._flow)]

    def _owner(self, name: str) -> _Owner:
        state, flow = self._owners()
        return flow if name.startswith(ATTRIBUTE) else state


def untracked(value: Any) -> Any:
    """`value`, or the plain dict that it is of a state that is watched."""
    return value.copy() if isinstance(value, _TrackedDict) else value


def set_id(flow: Flow[Any], state_id: str) -> None:
    """Give the state of `flow` an id, also if it is frozen."""
    state = flow._state
    if isinstance(state, dict):
        state["id"] = state_id
    elif "id" in type(state).model_fields:
        _dict(state)["id"] = state_id


def _find(value: Any, container: Any, depth: int = 3) -> list[Any] | None:
    """The way from `container` to `value`, which is it or in it."""
    if container is value:
        return []
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(container, dict):
        parts = dict.items(container)
    elif isinstance(container, list):
        parts = enumerate(container)
    elif isinstance(container, BaseModel):
        parts = _dict(container).items()
    for part, item in list(parts) if depth else ():
        if isinstance(item, _SCALARS) or not isinstance(part, (str, int)):
            continue
        if (inside := _find(value, item, depth - 1)) is not None:
            return [part, *inside]
    return None


def _bare(name: str) -> str:
    return name.removeprefix(ATTRIBUTE)


def _stored(value: Any, known: tuple[type, ...]) -> tuple[str, Any, str]:
    # Another method may change a container while it is looked at.
    for attempt in range(10):
        try:
            data = _codec.encode(value, known)
            return _mark(data), _codec.Encoded(data), ""
        except (UnstorableValueError, RecursionError) as error:
            return f"{type(value).__qualname__} {id(value)}", None, str(error)
        except RuntimeError:
            if attempt == 9:
                raise
    raise AssertionError


def _mark(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


class _Owner:
    """Something with fields: a state."""

    def __init__(self, prefix: str, owner: Any) -> None:
        self.prefix = prefix
        self.owner = owner

    def items(self) -> list[tuple[str, Any]]:
        if isinstance(self.owner, dict):
            return [(_as_name(key), value) for key, value in dict.items(self.owner)]
        extra, private = self.owner.__pydantic_extra__, self.owner.__pydantic_private__
        return list({**_dict(self.owner), **(extra or {}), **(private or {})}.items())

    def get(self, name: str) -> Any:
        return dict(self.items()).get(name)

    def set(self, name: str, value: Any) -> None:
        if isinstance(self.owner, dict):
            dict.__setitem__(self.owner, _as_key(name), value)
        elif name in type(self.owner).__private_attributes__:
            self.owner.__pydantic_private__[name] = value
        elif name in type(self.owner).model_fields or self.owner.__pydantic_extra__ is None:
            _dict(self.owner)[name] = value
            self.owner.__pydantic_fields_set__.add(name)
        else:
            self.owner.__pydantic_extra__[name] = value

    def delete(self, name: str) -> None:
        if isinstance(self.owner, dict):
            dict.pop(self.owner, _as_key(name), None)
        elif _dict(self.owner).pop(name, self) is self:
            (self.owner.__pydantic_extra__ or {}).pop(name, None)


def _as_name(key: Any) -> str:
    """A key of a dict as the name of a field. Most are strings, and names of themselves."""
    if type(key) is str and not key.startswith((ATTRIBUTE, _KEY)):
        return key
    return _KEY + json.dumps(_codec.encode(key))


def _as_key(name: str) -> Any:
    return _codec.decode(json.loads(name[len(_KEY) :])) if name.startswith(_KEY) else name


class _Attributes(_Owner):
    """What a user keeps in a flow beside the state."""

    def items(self) -> list[tuple[str, Any]]:
        engine = {*Flow.model_fields, *_OF_THE_ENGINE} - _SETTINGS
        found = {
            name: value
            for name, value in _dict(self.owner).items()
            if name not in engine and not name.startswith(_OURS)
        }
        private = self.owner.__pydantic_private__ or {}
        own = {n: v for n, v in private.items() if n not in Flow.__private_attributes__}
        return list({**found, **own}.items())

    def set(self, name: str, value: Any) -> None:
        private = type(self.owner).__private_attributes__
        place = self.owner.__pydantic_private__ if name in private else _dict(self.owner)
        place[name] = value

    def delete(self, name: str) -> None:
        _dict(self.owner).pop(name, None)


def _dict(owner: Any) -> dict[str, Any]:
    found: dict[str, Any] = object.__getattribute__(owner, "__dict__")
    return found


class _TrackedModel:
    """Overrides of a pydantic state."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("__") or isinstance(value, _SCALARS):
            return value
        if name in _dict(self) or name in (self.__pydantic_extra__ or {}):
            _touch(self, name)
        return value

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]
        if not name.startswith("__") and not isinstance(value, _SCALARS):
            _touch(self, name)
        return value

    def __reduce_ex__(self, protocol: Any) -> Any:
        state: Any = self
        return _unpickled, (original_class(type(self)), state.__getstate__())

    def __setattr__(self, name: str, value: Any) -> None:
        _touch(self, name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        _touch(self, name)
        super().__delattr__(name)


def _unpickled(cls: Any, state: Any) -> Any:
    found = cls.__new__(cls)
    found.__setstate__(state)
    return found


class _TrackedDict(dict[str, Any]):
    """A state that is a dict."""

    def _given(self, name: Any, value: Any) -> Any:
        if not isinstance(value, _SCALARS):
            _touch(self, _as_name(name))
        return value

    def __getitem__(self, name: str) -> Any:
        return self._given(name, super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self._given(name, super().get(name, default))

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def __setitem__(self, name: str, value: Any) -> None:
        _touch(self, _as_name(name))
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        _touch(self, _as_name(name))
        super().__delitem__(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        _touch(self, _as_name(name))
        return super().setdefault(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        _touch(self, _as_name(name))
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        name, value = super().popitem()
        _touch(self, _as_name(name))
        return name, value

    def clear(self) -> None:
        for name in self:
            _touch(self, _as_name(name))
        super().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def copy(self) -> dict[str, Any]:
        return dict(dict.items(self))

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.copy(),)
