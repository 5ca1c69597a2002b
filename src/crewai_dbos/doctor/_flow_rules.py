"""The rules that are about flows: what their methods do themselves, and what of a state is kept."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr

from crewai_dbos._stored import hidden
from crewai_dbos._stored.type_paths import type_path
from crewai_dbos.doctor import _effects, _sharing
from crewai_dbos.doctor._flow import FlowParts
from crewai_dbos.doctor._report import Finding, found
from crewai_dbos.doctor._subject import Subject
from crewai_dbos.errors import UnstorableValueError

_SECRETS = (SecretBytes, SecretStr)
_STEP = "put it into a function of yours that returns plain data, and call crewai_dbos.step"
_IN_ASYNC = " without await, or await asyncio.to_thread(crewai_dbos.step, that_function, ...)"


def unrecorded_value(subject: Subject) -> Iterator[Finding]:
    for method, calls, step in _calls(subject.flow, "value"):
        yield found(
            "unrecorded-value",
            "warning",
            f"Method {method!r} itself calls {calls}. If a crash cuts the method short, it runs "
            "again and gets another value.",
            f"Use crewai_dbos.now(), random() or uuid4(), or {step}",
        )


def unrecorded_effect(subject: Subject) -> Iterator[Finding]:
    for method, calls, step in _calls(subject.flow, "effect"):
        yield found(
            "unrecorded-effect",
            "warning",
            f"Method {method!r} itself calls {calls}. If a crash cuts the method short, that is "
            "done again.",
            f"P{step[1:]}",
        )
    for method, calls, step in _calls(subject.flow, "overwrite"):
        yield found(
            "unrecorded-effect",
            "hint",
            f"Method {method!r} itself writes a file: {calls}. If a crash cuts the method short, "
            "the file is written again.",
            f"If that matters, {step}",
        )


def unrecorded_question(subject: Subject) -> Iterator[Finding]:
    for method, calls, step in _calls(subject.flow, "question"):
        yield found(
            "unrecorded-question",
            "warning",
            f"Method {method!r} itself calls {calls}. If a crash cuts the method short, the person "
            "is asked again.",
            f"Use self.ask(...), or {step}",
        )


def inherited_methods(subject: Subject) -> Iterator[Finding]:
    flow = subject.flow
    if flow is None:
        return
    for base, names in flow.inherited():
        yield found(
            "inherited-methods",
            "warning",
            f"{flow.cls.__name__} inherits {', '.join(map(repr, names))} from {base.__name__}. "
            "crewAI runs only methods that are decorated in the class itself, so they are no part "
            "of this flow.",
            "Define and decorate them in the class, and call super() there.",
        )


def no_start(subject: Subject) -> Iterator[Finding]:
    flow = subject.flow
    if flow is not None and not any(m.is_start for m in flow.definition.methods.values()):
        yield found(
            "no-start",
            "warning",
            f"No method of {flow.cls.__name__} is decorated with @start, so a run does nothing.",
            "Decorate the method that a run begins with.",
        )


def shared_field(subject: Subject) -> Iterator[Finding]:
    flow = subject.flow
    if flow is None:
        return
    for field, methods in _sharing.shared(flow.definition, flow.codes):
        names = " and ".join([", ".join(map(repr, methods[:-1])), repr(methods[-1])])
        yield found(
            "shared-field",
            "hint",
            f"Methods {names} can be at work at the same time and change the field {field!r} of "
            "the state. If a crash comes when one has ended and another has not, both may run "
            "again.",
            "Give each a field of its own, and put them together in a method that listens to all.",
        )


def unstorable_state(subject: Subject) -> Iterator[Finding]:
    cls = dict if subject.flow is None else subject.flow.state_class
    if not issubclass(cls, BaseModel):
        return
    known = set(_reachable([cls], through_dataclasses=False))
    for name, field in cls.model_fields.items():
        for inner in sorted(_reachable([field.annotation]), key=lambda cls: cls.__qualname__):
            if issubclass(inner, _SECRETS):
                why, fix = "is not stored", "Read the secret in the methods that need it."
            elif inner not in known and not _is_importable(inner):
                why = "is defined inside a function and can't be stored"
                fix = "Define the class at the top level of a module."
            else:
                continue
            yield found(
                "unstorable-state",
                "warning",
                f"The field {name!r} of the state can hold a {inner.__qualname__}, which {why}. On "
                "recovery the methods that changed the field run again.",
                fix,
            )


def hidden_field(subject: Subject) -> Iterator[Finding]:
    for where, cls in _models(subject.flow):
        if names := sorted(hidden.names(cls)):
            yield found(
                "hidden-field",
                "hint",
                f"{_listed(names)} of {where} {cls.__qualname__} {_are(names)} excluded or private "
                "and not stored: on recovery the methods that have set one in the state run again, "
                "and elsewhere it has its default.",
                "If nothing secret is kept there: @crewai_dbos.store_hidden.",
            )


def stored_hidden(subject: Subject) -> Iterator[Finding]:
    for where, cls in _models(subject.flow):
        if hidden.stores_hidden(cls) and (names := sorted(hidden.hidden_by(cls))):
            yield found(
                "stored-hidden",
                "hint",
                f"{_listed(names)} of {where} {cls.__qualname__} {_are(names)} excluded or private "
                "and stored with the run, as the class is decorated with @store_hidden.",
                "If something secret is kept there, take the decorator away.",
            )


def _models(flow: FlowParts | None) -> Iterator[tuple[str, Any]]:
    """The models that a state is made of, each with what it is."""
    if flow is None or not issubclass(flow.state_class, BaseModel):
        return
    reached = sorted(_reachable([flow.state_class]), key=lambda cls: cls.__qualname__)
    for cls in reached:
        if issubclass(cls, BaseModel) and cls.__module__.partition(".")[0] != "crewai":
            yield ("the state" if cls is flow.state_class else "the model"), cls


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


FLOW_RULES = (
    no_start,
    unrecorded_value,
    unrecorded_effect,
    unrecorded_question,
    inherited_methods,
    shared_field,
    unstorable_state,
    hidden_field,
    stored_hidden,
)


def _calls(flow: FlowParts | None, kind: _effects.Kind) -> Iterator[tuple[str, str, str]]:
    """Methods with calls of this kind, these as text, and how they are recorded there."""
    for method, codes in flow.codes.items() if flow is not None else ():
        found = [
            (code, call) for code in codes for of, call in _effects.of_code(code) if of == kind
        ]
        if found:
            calls = ", ".join(code.place(call, codes[0]) for code, call in found)
            is_async = any(isinstance(code.tree, ast.AsyncFunctionDef) for code, _ in found)
            step = f"{_STEP}(that_function, ...){_IN_ASYNC if is_async else ''}."
            yield method, calls, step


def _reachable(annotations: Iterable[Any], *, through_dataclasses: bool = True) -> Iterator[type]:
    """The classes of data, and of secrets, that values of these types can hold.

    Args:
        through_dataclasses: Whether fields of dataclasses count. The journal knows of none.
    """
    waiting, seen = list(annotations), set()
    while waiting:
        item = waiting.pop()
        waiting.extend(get_args(item))
        if not isinstance(item, type) or item in seen:
            continue
        seen.add(item)
        if issubclass(item, BaseModel):
            waiting.extend(field.annotation for field in item.model_fields.values())
        elif dataclasses.is_dataclass(item) and through_dataclasses:
            waiting.extend(field.type for field in dataclasses.fields(item))
        if issubclass(item, (BaseModel, Enum, *_SECRETS)) or dataclasses.is_dataclass(item):
            yield item


def _is_importable(cls: type) -> bool:
    try:
        type_path(cls)
    except UnstorableValueError:
        return False
    return True
