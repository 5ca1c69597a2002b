"""What a method did to the state of its flow, told apart from what others did at the same time.

A state, and whatever else a flow keeps in attributes, is shared by methods that run side by side. A
method is credited with the fields that it touched and that have changed since the last entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crewai.flow.flow import Flow
from pydantic import BaseModel

from crewai_dbos._classes import original_class
from crewai_dbos._errors import UnstorableValueError
from crewai_dbos._flows.fields import ATTRIBUTE, SCALARS, Attributes, Fields, bare, own_dict
from crewai_dbos._flows.tracking import Execution, release, touch, watch
from crewai_dbos._stored import codec


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
        watch(self._flow)
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
                touch(self._owner(path[0]).owner, bare(path[0]))

    def changes(self, execution: Execution, others: Sequence[Execution]) -> Changes:
        """What `execution`, which has ended, is credited with. Asked once for each.

        Args:
            execution: The method.
            others: Those that are at work beside it.
        """
        watch(self._flow)
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
            self._owner(name).set(bare(name), value)
        for name in removed:
            self._owner(name).delete(bare(name))
        for name, mark, _, _ in self._fields({*values, *removed}):
            self._committed[name] = mark
        for name in removed:
            self._committed.pop(name, None)

    def name_of(self, value: Any) -> list[Any] | None:
        """Where `value` is to be found, if it can be changed: in a field, or the state itself."""
        if value is self._flow._state:
            return []
        if isinstance(value, SCALARS):
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
        found = self._owner(path[0]).get(bare(path[0]))
        for part in path[1:]:
            found = getattr(found, part) if isinstance(found, BaseModel) else found[part]
        return found

    def release(self) -> None:
        """Watch no more: the state has its own class again."""
        release(self._flow)

    def _is_of(
        self, execution: Execution, name: str, others: Sequence[Execution], found: Changes
    ) -> bool:
        """Whether a change of the field is credited to `execution`."""
        key = (id(self._owner(name).owner), bare(name))
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

    def _owners(self) -> list[Fields]:
        return [Fields("", self._flow._state), Attributes(ATTRIBUTE, self._flow)]

    def _owner(self, name: str) -> Fields:
        state, flow = self._owners()
        return flow if name.startswith(ATTRIBUTE) else state


def set_id(flow: Flow[Any], state_id: str) -> None:
    """Give the state of `flow` an id, also if it is frozen."""
    state = flow._state
    if isinstance(state, dict):
        state["id"] = state_id
    elif "id" in type(state).model_fields:
        own_dict(state)["id"] = state_id


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
        parts = own_dict(container).items()
    for part, item in list(parts) if depth else ():
        if isinstance(item, SCALARS) or not isinstance(part, (str, int)):
            continue
        if (inside := _find(value, item, depth - 1)) is not None:
            return [part, *inside]
    return None


def _stored(value: Any, known: tuple[type, ...]) -> tuple[str, Any, str]:
    # Another method may change a container while it is looked at.
    for attempt in range(10):
        try:
            data = codec.encode(value, known)
            return _mark(data), codec.Encoded(data), ""
        except (UnstorableValueError, RecursionError) as error:
            return f"{type(value).__qualname__} {id(value)}", None, str(error)
        except RuntimeError:
            if attempt == 9:
                raise
    raise AssertionError


def _mark(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
