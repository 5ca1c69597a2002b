"""Fields of a flow's state that methods change while others of them are at work."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crewai_dbos.doctor._code import Code, is_attribute_of

_IN_PLACE = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("add", "discard", "update", "setdefault", "popitem", "appendleft", "popleft"),
    *("difference_update", "intersection_update", "symmetric_difference_update"),
}


def shared(
    definition: Any, codes: Mapping[str, Sequence[Code]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Fields, each with the methods that change it and can run at the same time.

    Args:
        definition: crewAI's, of the flow.
        codes: What is known of the code of each method.
    """
    changed = {
        name: {field for code in codes.get(name, ()) for field in _changes(code)}
        for name in definition.methods
    }
    told = set()
    for group in _at_once(definition):
        for field in sorted({field for name in group for field in changed[name]}):
            found = field, tuple(name for name in group if field in changed[name])
            if len(found[1]) > 1 and found not in told:
                told.add(found)
                yield found


def _at_once(definition: Any) -> Iterator[list[str]]:
    """Methods that crewAI starts together: all starts, and the listeners of one event."""
    methods = definition.methods
    conversation = definition.conversational
    if conversation is None or not conversation.enabled:
        yield [name for name, method in methods.items() if method.start is True]
    listeners: dict[str, list[str]] = {}
    for name, method in methods.items():
        for event in sorted(_alternatives(method.listen)) if not method.router else ():
            listeners.setdefault(event, []).append(name)
    yield from listeners.values()


def _alternatives(condition: Any) -> set[str]:
    """The events each of which is enough for `condition`."""
    if isinstance(condition, str):
        return {condition}
    branches = condition.get("or", ()) if isinstance(condition, dict) else ()
    return {event for branch in branches for event in _alternatives(branch)}


def _changes(code: Code) -> Iterator[str]:
    for node in code.nodes:
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            yield from _field(code, node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _IN_PLACE:
                yield from _field(code, node.func.value)
            if node.func.attr == "update" and _is_state(code, node.func.value):
                yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def _field(code: Code, node: ast.expr) -> Iterator[str]:
    """The field of the state that `node` is, or is a part of."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if _is_state(code, node.value):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                yield node.slice.value
            return
        node = node.value


def _is_state(code: Code, node: ast.expr) -> bool:
    return is_attribute_of(node, code.first_argument) and node.attr == "state"
