"""Where our code assigns to something of somebody else's: a class or module of another package."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator

from support.private_names import name_of

_SETTERS = ("setattr", "delattr", "__setattr__", "__delattr__")
_CHANGES = ("update", "setdefault", "pop", "popitem", "clear", "__setitem__", "__delitem__")


def assignments(source: str) -> list[str]:
    """Each place in `source`, a module of ours, with its line and what stands there."""
    tree = ast.parse(source)
    foreign = _foreign_names(tree)
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        for target in _assigned(node)
        if _root(target) in foreign
    ]


def _assigned(node: ast.AST) -> Iterator[ast.expr]:
    """What `node` changes an attribute of."""
    targets: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        targets = [node.target]
    elif isinstance(node, ast.Call):
        yield from _set_by_call(node)
    for target in targets:
        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(each, ast.Subscript):
                yield from [each.value] if _is_namespace(each.value) else []
            elif isinstance(each, ast.Attribute):
                yield each.value


def _set_by_call(call: ast.Call) -> Iterator[ast.expr]:
    name = name_of(call.func)
    if name in _SETTERS and call.args:
        yield call.args[0]
    elif isinstance(call.func, ast.Attribute) and name in _CHANGES:
        yield from [call.func.value] if _is_namespace(call.func.value) else []
    elif name == "listen" and ast.unparse(call.func).endswith("event.listen"):
        yield call.args[0]


def _is_namespace(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "vars"
    return isinstance(node, ast.Attribute) and node.attr == "__dict__"


def _root(node: ast.expr) -> str:
    """The name that `node` begins with."""
    while True:
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
            node = node.args[0]
        else:
            return node.id if isinstance(node, ast.Name) else ""


def _foreign_names(tree: ast.AST) -> set[str]:
    found = {name for node in ast.walk(tree) for name in _imported(node)}
    # By another name: `cls: Any = Thread`, or in turn: `for cls in (Thread, Timer)`.
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(node.value, (ast.Name, ast.Attribute)) and _root(node.value) in found:
                found.update(each.id for each in targets if isinstance(each, ast.Name))
        elif isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.iter, ast.Tuple):
            named = {each.id for each in ast.walk(node.iter) if isinstance(each, ast.Name)}
            if named & found:
                found.update(e.id for e in ast.walk(node.target) if isinstance(e, ast.Name))
    return found


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        ours = (node.module or "").partition(".")[0] == "crewai_dbos"
        for alias in node.names:
            if not ours or _is_foreign(node.module or "", alias.name):
                yield alias.asname or alias.name


def _is_foreign(module: str, name: str) -> bool:
    """Whether a module of ours has `name` from somebody else."""
    value = getattr(importlib.import_module(module), name, None)
    home = value.__module__ if inspect.isclass(value) else getattr(value, "__name__", "")
    known = inspect.isclass(value) or inspect.ismodule(value)
    return known and home.partition(".")[0] != "crewai_dbos"
