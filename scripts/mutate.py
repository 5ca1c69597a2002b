"""Rename each private name of crewAI and DBOS that src/ touches, and see that a test misses it.

usage: python scripts/mutate.py [--list] [--jobs N] [NAME ...]

Which names those are is found in the source. Each is renamed in a copy of the installed package,
everywhere, so that the package itself works as before; then the seam tests are run against the
copy, and if all of them pass, the smoke test. A name that nobody misses is printed, and could be
moved by the next release without our hearing of it. Takes some ten seconds a name.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "crewai_dbos"
PACKAGES = ("crewai", "dbos")
PRIVATE = re.compile(r"_[A-Za-z][A-Za-z0-9_]*(?<!__)")


def folder_of(package: str) -> Path:
    """Where an installed package is, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def sources(folder: Path) -> list[Path]:
    """The modules in a folder and below it."""
    return sorted(folder.rglob("*.py"))


# What is touched ------------------------------------------------------------------------


class Touched(ast.NodeVisitor):
    """Finds the private names of others that a module of ours may touch.

    Args:
        tree: The module.

    Attributes:
        names: What it reads or sets of objects, mentions in a string, or overrides.
        imported: By package what it imports from private modules, and these modules; None for a
            package that it does not import.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.imported: dict[str, set[str]] = {}
        self._own: list[set[str]] = []
        self._ours: set[str] = set()
        self._foreign: set[str] = {"overrides"}
        self.visit(tree)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package, *inner = (node.module or "").split(".")
        given = {alias.name for alias in node.names}
        if package == SOURCE.name:
            self._ours |= {alias.asname or alias.name for alias in node.names}
        elif package in PACKAGES:
            self._foreign |= {alias.asname or alias.name for alias in node.names}
            private = {part for part in inner if PRIVATE.fullmatch(part)}
            named = {name for name in given if private or PRIVATE.fullmatch(name)}
            self.imported.setdefault(package, set()).update(private | named)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            package, *inner = alias.name.split(".")
            if package in PACKAGES:
                private = {part for part in inner if PRIVATE.fullmatch(part)}
                self.imported.setdefault(package, set()).update(private)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        own = own_names(node)
        named = {part.id for base in self._above(node) for part in ast.walk(base) if is_name(part)}
        if named & self._foreign:
            self.names |= {name for name in own if PRIVATE.fullmatch(name)}
            own = set()
        self._own.append(own)
        self.generic_visit(node)
        self._own.pop()

    def _above(self, node: ast.ClassDef) -> list[ast.expr]:
        return [*node.bases, *node.decorator_list]

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of = node.value.id if isinstance(node.value, ast.Name) else ""
        ours = of in self._ours or (
            of in ("self", "cls") and any(node.attr in own for own in self._own)
        )
        if PRIVATE.fullmatch(node.attr) and not ours:
            self.names.add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and PRIVATE.fullmatch(node.value):
            self.names.add(node.value)


def is_name(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def own_names(node: ast.ClassDef) -> set[str]:
    """What a class defines, in its body and on `self`."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(part.name)
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            if isinstance(part.value, ast.Name) and part.value.id in ("self", "cls"):
                found.add(part.attr)
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            found.add(part.target.id)
        elif isinstance(part, ast.Assign):
            found |= {target.id for target in part.targets if isinstance(target, ast.Name)}
    return found


def defined_in(folder: Path) -> set[str]:
    """The names that a package gives to its modules, classes, functions and attributes."""
    found: set[str] = set()
    for path in sources(folder):
        found.update(path.relative_to(folder).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)  # as in `object.__setattr__(flow, "_name", ...)`
    return found


def touched() -> list[tuple[str, str]]:
    """Each package with a name of it that src/ touches."""
    modules = [Touched(ast.parse(path.read_bytes())) for path in sources(SOURCE)]
    found = set()
    for package in PACKAGES:
        defined = defined_in(folder_of(package)) - set(dir(namedtuple("Any", ())))
        for module in modules:
            if package in module.imported:
                names = (module.names & defined) | module.imported[package]
                found |= {(package, name) for name in names}
    return sorted(found)


# Renaming -------------------------------------------------------------------------------


def renamed_copy(package: str, name: str, target: Path) -> None:
    """A copy of an installed package in `target`, in which everything called `name` is not."""
    original, copy = folder_of(package), target / package
    shutil.copytree(original, copy, copy_function=_linked)
    word = re.compile(rf"\b{name}\b")
    for path in sources(copy):
        text = path.read_text()
        if word.search(text):
            path.unlink()  # it may be a link to the original
            path.write_text(word.sub(f"{name}_renamed", text))
    for path in sorted(copy.rglob("*"), reverse=True):
        if path.stem == name and path.suffix in ("", ".py"):
            path.rename(path.with_name(f"{name}_renamed{path.suffix}"))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# Testing --------------------------------------------------------------------------------


def commands(package: str) -> Iterator[list[str]]:
    """What is run for a name, the cheapest first."""
    seams = [str(path) for path in sorted((ROOT / "tests").rglob("test_*_seam.py"))]
    # Those of crewAI are no use for a name of DBOS, nor the other way round.
    chosen = [path for path in seams if ("dbos_seam" in path) == (package == "dbos")]
    yield [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen]
    yield [sys.executable, str(ROOT / "tests/smoke/smoke.py")]


def missed_by(package: str, name: str) -> str:
    """The first test that fails when `name` is renamed; "" if there is none."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        renamed_copy(package, name, Path(folder))
        path = os.pathsep.join([folder, str(ROOT / "src"), str(ROOT / "tests")])
        env = {**os.environ, "PYTHONPATH": path}
        for command in commands(package):
            ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            if ran.returncode:
                return _why(ran.stdout + ran.stderr)
    return ""


def _why(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("FAILED", "ERROR", "ImportError"))]
    return (told or lines or ["it failed without a word"])[-1][:160]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("names", nargs="*", help="only these")
    given = parser.parse_args()
    chosen = [(p, name) for p, name in touched() if not given.names or name in given.names]
    if given.list:
        print("\n".join(f"{package} {name}" for package, name in chosen))
        return 0
    unmissed = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for (package, name), why in zip(
            chosen, pool.map(lambda each: missed_by(*each), chosen), strict=True
        ):
            print(f"{package} {name}: {why or 'NOBODY MISSES IT'}", flush=True)
            if not why:
                unmissed.append(f"{package} {name}")
    print(
        f"{len(chosen)} names, {len(unmissed)} that nobody misses: {', '.join(unmissed) or 'none'}"
    )
    return 1 if unmissed else 0


if __name__ == "__main__":
    sys.exit(main())
