"""Which method of a flow touches which field of its state, seen in the state's own class."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from crewai.flow.flow import Flow
from pydantic import BaseModel

from crewai_dbos._classes import original_class, overridden
from crewai_dbos._crewai_seam.flow import set_state, state_of
from crewai_dbos._flows.state.fields import (
    OF_NO_METHOD,
    OURS,
    SCALARS,
    as_name,
    own_dict,
    own_private,
)
from crewai_dbos._leases import RunVar
from crewai_dbos._setting import setting


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


_at_work: RunVar[Execution | None] = RunVar("crewai_dbos_execution", default=None)


def current() -> Execution | None:
    """The method that the running code is part of."""
    return _at_work.get()


def at_work(execution: Execution) -> AbstractContextManager[Any]:
    """The block, and what it starts, is part of `execution`."""
    return setting(_at_work, execution)


def touch(owner: Any, name: str) -> None:
    execution = _at_work.get()
    while execution is not None:
        execution.touched.add((id(owner), name))
        execution = execution.outer


def touch_attribute(flow: Any, name: str, value: Any, *, changed: bool = False) -> None:
    """An attribute of `flow` was set, or read as `value`, by the method at work."""
    if name in OF_NO_METHOD or not (changed or _may_be_changed(flow, name, value)):
        return
    if _at_work.get() is not None and not name.startswith(OURS):
        touch(flow, name)


def _may_be_changed(flow: Any, name: str, value: Any) -> bool:
    """Whether who has read `value`, an attribute of `flow`, may change what it holds."""
    if isinstance(value, SCALARS):
        return False
    return name in own_dict(flow) or name in own_private(flow)


def watch(flow: Flow[Any]) -> None:
    """See from now on what is touched of the state that `flow` has. Any number of times."""
    state = state_of(flow)
    if isinstance(state, BaseModel) and not isinstance(state, _TrackedModel):
        # Not kept: crewAI may have made the class for this one state.
        state.__class__ = overridden(_TrackedModel, type(state))
    elif isinstance(state, dict) and not isinstance(state, _TrackedDict):
        set_state(flow, _TrackedDict(state))


def release(flow: Flow[Any]) -> None:
    """Watch no more: the state has its own class again."""
    state = state_of(flow)
    if isinstance(state, _TrackedModel):
        state.__class__ = original_class(type(state))
    elif isinstance(state, _TrackedDict):
        set_state(flow, dict(state))


def untracked(value: Any) -> Any:
    """`value`, or the plain dict that it is of a state that is watched."""
    return value.copy() if isinstance(value, _TrackedDict) else value


if TYPE_CHECKING:
    _Base = BaseModel
else:
    _Base = object


class _TrackedModel(_Base):
    """Overrides of a pydantic state."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("__") or isinstance(value, SCALARS):
            return value
        if name in own_dict(self) or name in (self.__pydantic_extra__ or {}):
            touch(self, name)
        return value

    def __getattr__(self, name: str) -> Any:
        # Which pydantic hides from type checkers.
        value = cast(Any, super()).__getattr__(name)
        if not name.startswith("__") and not isinstance(value, SCALARS):
            touch(self, name)
        return value

    def __reduce_ex__(self, protocol: Any) -> Any:
        state: Any = self
        return _unpickled, (original_class(type(self)), state.__getstate__())

    def __setattr__(self, name: str, value: Any) -> None:
        touch(self, name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        touch(self, name)
        super().__delattr__(name)


def _unpickled(cls: Any, state: Any) -> Any:
    found = cls.__new__(cls)
    found.__setstate__(state)
    return found


class _TrackedDict(dict[str, Any]):
    """A state that is a dict."""

    def _given(self, name: Any, value: Any) -> Any:
        if not isinstance(value, SCALARS):
            touch(self, as_name(name))
        return value

    def __getitem__(self, name: str) -> Any:
        return self._given(name, super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self._given(name, super().get(name, default))

    def values(self) -> Any:
        self._give_all()
        return super().values()

    def items(self) -> Any:
        self._give_all()
        return super().items()

    def _give_all(self) -> None:
        for name, value in dict.items(self):
            self._given(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        touch(self, as_name(name))
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        touch(self, as_name(name))
        super().__delitem__(name)

    def setdefault(self, name: str, default: Any = None) -> Any:
        touch(self, as_name(name))
        return super().setdefault(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        touch(self, as_name(name))
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        name, value = super().popitem()
        touch(self, as_name(name))
        return name, value

    def clear(self) -> None:
        for name in self:
            touch(self, as_name(name))
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
