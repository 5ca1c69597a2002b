"""What a method did to the state of its flow, told apart from what others did at the same time.

A state, and whatever else a flow keeps in attributes, is shared by methods that run side by side. A
method is credited with the fields that it touched and that have changed since the last entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crewai.flow.flow import Flow

from crewai_dbos._classes import original_class
from crewai_dbos._crewai_seam.flow import state_of
from crewai_dbos._flows.state.aliases import Pair, Path, find, follow, put, shared
from crewai_dbos._flows.state.fields import (
    ATTRIBUTE,
    SCALARS,
    Attributes,
    Fields,
    own_dict,
    without_prefix,
)
from crewai_dbos._flows.state.opaque import visible_data
from crewai_dbos._flows.state.tracking import Execution, release, touch, watch
from crewai_dbos._stored import codec
from crewai_dbos.errors import UnstorableValueError

_RESULT = ATTRIBUTE
"""Stands in a path for what a method returned: no attribute has an empty name."""

_HIDDEN = (
    "It is private or excluded, and may be a secret. If not, decorate its class with "
    "@crewai_dbos.store_hidden."
)


@dataclass(frozen=True)
class Changes:
    """What a method is credited with.

    Attributes:
        values: The fields that changed, with what they are now.
        removed: The fields that are gone.
        same: Places in these fields and others that hold one object, as `aliases.shared` has them.
        unsettled: Of those the ones that another method, still at work, had touched too, with the
            paths of these: until they have ended, the value may be half of theirs.
        unstorable: Fields that changed and have no JSON form, with the reason.
        explicit: The fields of the state that somebody has set, if these are others than before.
    """

    values: dict[str, Any] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    same: list[Pair] = field(default_factory=list)
    unsettled: dict[str, list[str]] = field(default_factory=dict)
    unstorable: dict[str, str] = field(default_factory=dict)
    explicit: frozenset[str] | None = None


def classes(flow: Flow[Any]) -> tuple[type, ...]:
    """Classes in what `flow` keeps that need not be importable: crewAI makes some for states."""
    return (original_class(type(state_of(flow))),)


class FlowState:
    """The state and the attributes of the flow of one run.

    Args:
        flow: The flow, before its first method.
        declared: The state that a new flow of this code has, as `declared` gives it.
    """

    def __init__(self, flow: Flow[Any], declared: Mapping[str, Any]) -> None:
        self._flow = flow
        self._declared = declared
        watch(self._flow)
        self.known = classes(flow)
        self._scalars: dict[str, tuple[Any, tuple[str, Any, str]]] = {}
        values = self._values()
        self._committed = {name: mark for name, mark, _, _ in self._fields(values, shared(values))}
        self._unsettled: dict[str, list[str]] = {}
        self._explicit = self._state().explicit()
        self._says_explicit = True  # runs of earlier releases do not

    def initial(self) -> dict[str, Any]:
        """For `begin`: the fields of the state, and the names of those without a JSON form.

        Of what a new flow has, the names that are missing are noted too: what is new in later code
        is told from them.
        """
        values = self._values()
        pairs = shared(values)
        every = self._fields(values, pairs)
        fields = {n: stored for n, _, stored, _ in every if not n.startswith(ATTRIBUTE)}
        stored = {name: value for name, value in fields.items() if value is not None}
        unstorable = [name for name, value in fields.items() if value is None]
        same, lacks = _of(stored, pairs), sorted(self._declared.keys() - fields.keys())
        return {
            "fields": stored,
            "unstorable": unstorable,
            "explicit": dict.fromkeys(sorted(self._state().explicit())),  # keys: no texts to redact
            **({"same": same} if same else {}),
            **({"lacks": lacks} if lacks else {}),
        }

    def begin(self, initial: Mapping[str, Any]) -> None:
        """Put the state back that the run began with."""
        self._says_explicit = "explicit" in initial
        fields = {self._name_now(name): value for name, value in initial["fields"].items()}
        kept = {*fields, *map(self._name_now, initial["unstorable"])}
        gained = self._declared.keys() - {*kept, *initial.get("lacks", ())}
        known = {*self.initial()["fields"], *self._declared}
        gone = [name for name in known if name not in kept and name not in gained]
        differing = {
            name: value
            for name, value in fields.items()
            if self._stored(value)[0] != self._committed.get(name)
        }
        begins = {name: self._declared[name] for name in gained}
        self.apply({**begins, **differing}, gone, initial.get("same", ()), initial.get("explicit"))

    def touch(self, values: Iterable[Any]) -> None:
        """The method at work has been given `values`, which may be fields."""
        for value in values:
            if path := self.name_of(value):
                touch(self._owner(path[0]).owner, without_prefix(path[0]))

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
        # What another one has stored of it is not used if that one runs again.
        owed = {name for name, paths in self._unsettled.items() if execution.path in paths}
        left = dict(self._committed)
        values = self._values()
        pairs = shared(values)
        for name, mark, stored, why in self._fields(values, pairs):
            same = left.pop(name, None) == mark and name not in owed
            owed.discard(name)
            if same or not self._is_of(execution, name, others, pairs, found):
                continue
            self._committed[name] = mark
            if stored is None:
                found.unstorable[name] = why
            else:
                found.values[name] = stored
        for name in {**left, **dict.fromkeys(owed)}:
            self._scalars.pop(name, None)
            if self._is_of(execution, name, others, pairs, found):
                self._committed.pop(name, None)
                found.removed.append(name)
        found.same.extend(_of(found.values, pairs))
        if (explicit := self._state().explicit()) != self._explicit:
            found = replace(found, explicit=explicit)
            self._explicit = explicit
        for name in (*found.values, *found.unstorable, *found.removed):
            self._unsettled[name] = found.unsettled.get(name, [])
        return found

    def shared_by(self, result: Any) -> list[Pair]:
        """Places in what a method returned that hold an object of a field, or one twice."""
        if isinstance(result, SCALARS):
            return []
        pairs = shared([*self._values(), (_RESULT, result)])
        return [pair for pair in pairs if pair[0][0] == _RESULT and len(pair[0]) > 1]

    def unite(self, pairs: Iterable[Pair], result: Any = None) -> None:
        """Have the places of `changes` or `shared_by` hold one object again."""

        def named(path: Path) -> Any:
            return follow(path[1:], result) if path[0] == _RESULT else self.named(path)

        for path, other in pairs:
            # A method that is still at work may have moved what was there.
            with contextlib.suppress(LookupError, AttributeError, TypeError):
                if len(path) == 1:
                    self._owner(path[0]).set(without_prefix(path[0]), self.named(other))
                else:
                    put(named(path[:-1]), path[-1], named(other))

    def apply(
        self,
        values: Mapping[str, Any],
        removed: Iterable[str] = (),
        same: Iterable[Pair] = (),
        explicit: Iterable[str] | None = None,
    ) -> None:
        """Put back what a method that is not run again did.

        Args:
            values, removed, same, explicit: As of `Changes`.
        """
        values = {self._name_now(name): value for name, value in values.items()}
        removed = [self._name_now(name) for name in removed]
        for name, value in values.items():
            self._owner(name).set(without_prefix(name), value)
        for name in removed:
            self._owner(name).delete(without_prefix(name))
        self.unite(same)
        if explicit is None and not self._says_explicit:
            fields = (name for name in values if not name.startswith(ATTRIBUTE))
            explicit = self._state().explicit().union(fields)
        if explicit is not None:
            self._state().set_explicit(explicit)
            self._explicit = self._state().explicit()
        now = self._values()
        applied = [(name, value) for name, value in now if name in values]
        for name, mark, _, _ in self._fields(applied, shared(now)):
            self._committed[name] = mark
        for name in removed:
            self._committed.pop(name, None)
            self._scalars.pop(name, None)

    def put_as_stored(self, values: Mapping[str, Any], same: Iterable[Pair]) -> None:
        """Put what is stored of a change in its place, where that is another value.

        Args:
            values: As of `changes`, decoded.
            same: As of `changes`.
        """
        now = self._values()
        pairs = shared(now)
        marks = {name: self._stored(live)[0] for name, live in now}
        as_credited = {
            name
            for name, mark in marks.items()
            if self._committed.get(name) == _marked(mark, name, pairs)
        }
        other = {
            name: value
            for name, value in values.items()
            if name in as_credited and self._stored(value)[0] != marks[name]
        }
        if other:
            together = [pair for pair in same if {path[0] for path in pair} <= as_credited]
            self.apply(other, (), together)

    def _name_now(self, name: str) -> str:
        """What a field is called that was stored as `name`."""
        owner = self._owner(name)
        return owner.prefix + owner.name_now(without_prefix(name))

    def name_of(self, value: Any) -> list[Any] | None:
        """Where `value` is to be found, if it can be changed: in a field, or the state itself."""
        if value is state_of(self._flow):
            return []
        if isinstance(value, SCALARS):
            return None
        for owner in self._owners():
            for name, item in owner.items():
                if (inside := find(value, item)) is not None:
                    return [owner.prefix + name, *inside]
        return None

    def named(self, path: Path) -> Any:
        """The reverse of `name_of`."""
        if not path:
            return state_of(self._flow)
        return follow(path[1:], self._owner(path[0]).get(without_prefix(path[0])))

    def release(self) -> None:
        """Watch no more: the state has its own class again."""
        release(self._flow)

    def _is_of(
        self,
        execution: Execution,
        name: str,
        others: Sequence[Execution],
        pairs: Sequence[Pair],
        found: Changes,
    ) -> bool:
        """Whether a change of the field is credited to `execution`."""
        together = {name, *(path[0] for pair in _of([name], pairs) for path in pair)}
        keys = {(id(self._owner(each).owner), without_prefix(each)) for each in together}
        beside = [other.path for other in others if keys & other.touched]
        if beside and not keys & execution.touched:
            return False
        if beside:
            found.unsettled[name] = beside
        return True

    def _stored(self, value: Any) -> tuple[str, Any, str]:
        return _stored(value, self.known, original_class(type(self._flow)))

    def _stored_field(self, name: str, value: Any) -> tuple[str, Any, str]:
        """As `_stored`, of a field. Most are looked at again and again and have not changed."""
        before = self._scalars.get(name)
        if before is not None and before[0] is value:
            return before[1]
        found = self._stored(value)
        if type(value) in SCALARS:  # the same object is the same value
            self._scalars[name] = (value, found)
        else:
            self._scalars.pop(name, None)
        return found

    def _values(self) -> list[tuple[str, Any]]:
        return [(owner.prefix + n, value) for owner in self._owners() for n, value in owner.items()]

    def _fields(
        self, values: Sequence[tuple[str, Any]], pairs: Sequence[Pair]
    ) -> list[tuple[str, str, Any, str]]:
        """Name, what changes with the value, its JSON form, and why there is none."""
        hidden = {name for owner in self._owners() for name in owner.hidden()}
        found = []
        for name, value in values:
            mark, stored, why = self._stored_field(name, value)
            if name in hidden:
                stored, why = None, _HIDDEN
            found.append((name, _marked(mark, name, pairs), stored, why))
        return found

    def _owners(self) -> list[Fields]:
        return [self._state(), Attributes(ATTRIBUTE, self._flow)]

    def _state(self) -> Fields:
        return Fields("", state_of(self._flow))

    def _owner(self, name: str) -> Fields:
        state, flow = self._owners()
        return flow if name.startswith(ATTRIBUTE) else state


def declared(flow: Flow[Any]) -> dict[str, Any]:
    """The fields that the state of `flow`, a new one, begins with, each with its value."""
    return dict(Fields("", state_of(flow)).items())


def set_id(flow: Flow[Any], state_id: str) -> None:
    """Give the state of `flow` an id, also if it is frozen."""
    state = state_of(flow)
    if isinstance(state, dict):
        state["id"] = state_id
    elif "id" in type(state).model_fields:
        own_dict(state)["id"] = state_id


def _of(names: Iterable[str], pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs that have to do with one of the fields."""
    return [pair for pair in pairs if not {path[0] for path in pair}.isdisjoint(names)]


def _marked(mark: str, name: str, pairs: Iterable[Pair]) -> str:
    """`mark`, and what of the field is shared: that may change while the values are equal."""
    own = [pair for pair in pairs if pair[0][0] == name]
    return f"{mark} {own}" if own else mark


def _stored(value: Any, known: tuple[type, ...], own: type) -> tuple[str, Any, str]:
    # Another method may change a container while it is looked at.
    for attempt in range(10):
        try:
            data = codec.encode(value, known)
            return _mark(data), codec.Encoded(data), ""
        except (UnstorableValueError, RecursionError) as error:
            return (
                f"{type(value).__qualname__} {id(value)} {visible_data(value, known, own)}",
                None,
                str(error),
            )
        except RuntimeError:
            if attempt == 9:
                raise
    raise AssertionError


_as_text = json.JSONEncoder().encode  # a dict in another order is another value


def _mark(data: Any) -> str:
    return hashlib.sha256(_as_text(data).encode()).hexdigest()
