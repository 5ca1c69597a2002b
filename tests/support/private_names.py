"""Which private names of a library our code uses, and where."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATH = re.compile(r"[\w.:()]+")

OF_PYTHON = {*sys.stdlib_module_names, "_fields"}
"""Modules of the standard library, and the fields of a namedtuple: public in spite of it."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and bool(name.strip("_"))


@functools.cache
def defined_by(library: str) -> frozenset[str]:
    """The private names that the installed `library` defines anywhere, its modules among them."""
    spec = importlib.util.find_spec(library)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found: set[str] = set()
    for path in root.rglob("*.py"):
        found.update(path.relative_to(root).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and name_of(node.func) == "__setattr__":
                found.update(a.value for a in node.args if isinstance(a, ast.Constant))
    return frozenset(name for name in found if isinstance(name, str) and is_private(name))


def name_of(function: ast.expr) -> str:
    """Its last part. To unparse it takes a hundred times as long."""
    return str(getattr(function, "attr", getattr(function, "id", "")))


@dataclass(frozen=True)
class Use:
    """A private name in our code.

    Attributes:
        line: Where.
        name: The name.
        code: What stands there.
    """

    line: int
    name: str
    code: str


def uses(source: str, library: str) -> list[Use]:
    """The private names of `library` that `source`, a module of ours, uses.

    Not among them are overrides of a method, what they call with ``super()``, and names that a
    class of ours has for itself.
    """
    names = defined_by(library) - OF_PYTHON
    tree = ast.parse(source)
    own = _own_names(tree, library)
    found = [
        Use(node.lineno, name, ast.unparse(node))
        for node, inside in _walk(tree)
        for name in _named(node, library)
        if (name in names or (isinstance(node, ast.ImportFrom) and is_private(name)))
        and not _is_own(node, name, inside, own)
    ]
    return sorted(found, key=lambda use: use.line)


def _walk(tree: ast.AST, inside: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node, with the name of the class that it is in."""
    for child in ast.iter_child_nodes(tree):
        yield child, inside
        yield from _walk(child, child.name if isinstance(child, ast.ClassDef) else inside)


def _named(node: ast.AST, library: str) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.keyword) and node.arg is not None:
        yield node.arg
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if _PATH.fullmatch(node.value):
            yield from re.split(r"\W+", node.value)
    elif isinstance(node, ast.JoinedStr):
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and is_private(str(first.value)):
            yield from (n for n in defined_by(library) if n.startswith(first.value))
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] == library:
                yield from alias.name.split(".")
    elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == library:
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)


@dataclass
class _Class:
    """The private names that a class of ours has for itself.

    Attributes:
        declared: Those that stand in its body: methods, overrides among them, and fields.
        set: Those that it sets on ``self``.
        bases: The names of the classes that it derives from.
        overrides: Whether it changes a class of the library: then what it sets is the library's.
    """

    declared: set[str]
    set: set[str]
    bases: list[str]
    overrides: bool

    def own(self) -> set[str]:
        return self.declared if self.overrides else self.declared | self.set


def _own_names(tree: ast.AST, library: str) -> dict[str, _Class]:
    found: dict[str, _Class] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
            made = _Class(set(_declared(node)), set(_set_on_self(node)), bases, False)
            made.overrides = _is_theirs(bases, tree, library) or any(_calls_super(node))
            found[node.name] = made
    return found


def _declared(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield item.name
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id
        elif isinstance(item, ast.Assign):
            yield from (each.id for each in item.targets if isinstance(each, ast.Name))


def _set_on_self(node: ast.ClassDef) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and _is_self(each):
            yield each.attr


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _is_super(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    first: ast.expr = node.value
    while isinstance(first, (ast.Attribute, ast.Subscript, ast.Call)):
        if isinstance(first, ast.Call):
            if name_of(first.func) == "super":
                return True
            first = first.func
        else:
            first = first.value
    return False


def _calls_super(node: ast.ClassDef) -> Iterator[bool]:
    for each in ast.walk(node):
        if _is_super(each) and isinstance(each, ast.Attribute):
            yield not each.attr.startswith("__")


def _is_theirs(bases: list[str], tree: ast.AST, library: str) -> bool:
    """Whether one of `bases` was imported from `library`."""
    theirs = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == library
        for alias in node.names
    }
    return not theirs.isdisjoint(bases)


def _is_own(node: ast.AST, name: str, inside: str, own: dict[str, _Class]) -> bool:
    if _is_super(node):
        return True
    if isinstance(node, ast.Attribute) and _is_self(node):
        return name in _with_bases(inside, own)
    if isinstance(node, ast.Constant):
        return any(name in cls.declared for cls in own.values())
    return any(name in cls.own() for cls in own.values() if not cls.overrides)


def _with_bases(name: str, own: dict[str, _Class]) -> set[str]:
    cls = own.get(name)
    return set() if cls is None else cls.own().union(*(_with_bases(b, own) for b in cls.bases))
