"""The source of a function, and what the names in it stand for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

from crewai_dbos._functions import closure_of
from crewai_dbos.doctor._full_names import PATH, Dotted, class_name, full_name, module_called

Definition = ast.FunctionDef | ast.AsyncFunctionDef

_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class Code:
    """A function whose source is there.

    Args:
        function: The function.
        tree: Its definition in the source.
    """

    def __init__(self, function: FunctionType, tree: Definition) -> None:
        self.function = function
        self.tree = tree
        self._types: dict[str, str | None] = {}

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def first_argument(self) -> str:
        """What its object is called; empty if it is no method."""
        place = self.function.__qualname__.rpartition(".")[0]
        if not place or place.endswith("<locals>"):
            return ""
        arguments = self.function.__code__.co_varnames[: self.function.__code__.co_argcount]
        return arguments[0] if arguments else ""

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """What it does itself: of the functions defined in it only those that it calls."""
        found = [node for part in self.tree.body for node in _inside(part)]
        defined = {name: body for part in self.tree.body for name, body in _functions_in(part)}
        for node in found:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for part in defined.pop(node.func.id, ()):
                    found += _inside(part)
                    defined.update(_functions_in(part))
        return tuple(found)

    @cached_property
    def parents(self) -> Mapping[ast.AST, ast.AST]:
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def place(self, call: ast.Call, caller: Code) -> str:
        """What is called and where, for somebody who looks at `caller`."""
        inside = "" if self is caller else f" of {self.name}"
        if self.function.__module__ != caller.function.__module__:
            inside += f" in {self.function.__module__}"
        return f"{ast.unparse(call.func)} (line {call.lineno}{inside})"

    # What an expression is ------------------------------------------------------

    def called(self, call: ast.Call) -> str | None:
        """The full name of what is called, as ``datetime.datetime.now``; None if it is unknown."""
        if isinstance(call.func, ast.Attribute) and (of := self.type_of(call.func.value)):
            return f"{of}.{call.func.attr}"
        return full_name(self.resolve(call.func))

    def type_of(self, node: ast.expr | None) -> str | None:
        """The full name of the class of a value that was made here; None if it is unknown."""
        if isinstance(node, ast.Call):
            made = self.called(node)
            return PATH if made in _MAKING_PATHS else made
        if isinstance(node, ast.Await):
            return self.type_of(node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return self.type_of(node.left)
        if isinstance(node, ast.Attribute) and node.attr == "parent":
            of = self.type_of(node.value)
            return of if of == PATH else None
        if isinstance(node, ast.Name):
            if node.id not in self._local:
                return class_name(self._named(node.id))
            return self._type_of_local(node.id)
        return None

    def _type_of_local(self, name: str) -> str | None:
        if name not in self._types:
            # What is made from the name itself, as in ``path = path / "a"``, tells nothing new.
            self._types[name] = _ITSELF
            found = {self.type_of(value) for value in self.assigned(name)} - {_ITSELF}
            self._types[name] = found.pop() if len(found) == 1 else None
        return self._types[name]

    def assigned(self, name: str) -> list[ast.expr | None]:
        """What is assigned to a local name; None stands for something that can't be told."""
        return self._assigned.get(name, [None])

    def constants(self, node: ast.expr | None) -> Iterator[Any]:
        """What an expression can be, as far as that is written as constants."""
        if isinstance(node, ast.Constant):
            yield node.value
        elif isinstance(node, ast.IfExp):
            yield from self.constants(node.body)
            yield from self.constants(node.orelse)
        elif isinstance(node, ast.Name):
            yield self._named(node.id)
            for value in self._assigned.get(node.id, []):
                if not isinstance(value, ast.Name):
                    yield from self.constants(value)

    def resolve(self, node: ast.expr) -> Any:
        """What a name, or an attribute of a module or class, stands for; None if unknown."""
        if isinstance(node, ast.Name):
            return self._named(node.id) or self._alias(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        of = self.resolve(node.value)
        if isinstance(of, ModuleType):
            return vars(of).get(node.attr, Dotted(f"{of.__name__}.{node.attr}"))
        if isinstance(of, (type, Dotted)):
            return Dotted(f"{full_name(of)}.{node.attr}")
        return None

    def _named(self, name: str) -> Any:
        if name in self._imported:
            return self._imported[name]
        if name in self._local:
            return None
        closure, scope = closure_of(self.function), self.function.__globals__
        builtins = scope.get("__builtins__", {})
        builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
        return next((names[name] for names in (closure, scope, builtins) if name in names), None)

    def _alias(self, name: str) -> Any:
        """What a local name stands for that is another one for an attribute."""
        assigned = self._assigned.get(name, [])
        if len(assigned) != 1 or not isinstance(assigned[0], ast.Attribute):
            return None
        base: ast.expr = assigned[0]
        while isinstance(base, ast.Attribute):
            base = base.value
        is_itself = isinstance(base, ast.Name) and base.id in self._assigned
        return None if is_itself else self.resolve(assigned[0])

    @cached_property
    def _local(self) -> set[str]:
        code = self.function.__code__
        inside = (n.id for n in self.nodes if isinstance(n, ast.Name) and not _is_read(n))
        arguments = (n.arg for n in self.nodes if isinstance(n, ast.arg))
        return {*code.co_varnames, *code.co_cellvars, *inside, *arguments}

    @cached_property
    def _imported(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = module_called(name)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                module = sys.modules.get(node.module)
                for alias in node.names:
                    unknown = Dotted(f"{node.module}.{alias.name}")
                    found[alias.asname or alias.name] = (
                        vars(module).get(alias.name, unknown) if module is not None else unknown
                    )
        return found

    @cached_property
    def _assigned(self) -> dict[str, list[ast.expr | None]]:
        values: dict[ast.AST, ast.expr | None] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                values.update(dict.fromkeys(node.targets, node.value))
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                values[node.target] = node.value
            elif isinstance(node, ast.withitem) and node.optional_vars is not None:
                values[node.optional_vars] = node.context_expr
        found: dict[str, list[ast.expr | None]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Name) and not _is_read(node):
                found.setdefault(node.id, []).append(values.get(node))
            elif isinstance(node, ast.arg):
                found.setdefault(node.arg, []).append(None)
        arguments = self.function.__code__.co_argcount + self.function.__code__.co_kwonlyargcount
        for name in self.function.__code__.co_varnames[:arguments]:
            found.setdefault(name, []).append(None)
        return found


def is_users(what: type | FunctionType) -> bool:
    """Whether a class or function is not of a library that flows are made with."""
    return what.__module__.partition(".")[0] not in ("crewai", "crewai_dbos", "pydantic")


def is_attribute_of(node: ast.AST, name: str) -> TypeGuard[ast.Attribute]:
    """Whether `node` is ``name.something``."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    )


_ITSELF = ""

_MAKING_PATHS = {
    f"{PATH}.{name}"
    for name in (
        *("absolute", "cwd", "expanduser", "home", "joinpath", "resolve"),
        *("with_name", "with_stem", "with_suffix"),
    )
}


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, _NESTED):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _inside(child)


def _functions_in(node: ast.AST) -> Iterator[tuple[str, Sequence[ast.AST]]]:
    """Functions that `node` defines by a name, less those with a decorator, and what is in them."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if not node.decorator_list:
            yield node.name, [node.args, *node.body]
        return
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, [node.value.args, node.value.body]
    if not isinstance(node, _NESTED):
        for child in ast.iter_child_nodes(node):
            yield from _functions_in(child)


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)
