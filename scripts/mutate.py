"""Rename each private name of crewAI and DBOS that src/ touches, and see that a test misses it.

usage: python scripts/mutate.py [--list] [--jobs N] [NAME ...]

Which names those are is found in the source. Those that a module of ours imports when it is
imported itself are missed by every test. Each other is renamed in a copy of the installed package,
everywhere, so that the package itself works as before. The seam tests are run on the copy until one
fails, those first that mention the name, and if all of them pass, the smoke test. A name that
nobody misses is printed: the next release could move it without our hearing of it. Names that no
seam test mentions come first. Takes some seconds a name.
"""

from __future__ import annotations

import argparse
import ast
import functools
import gc
import importlib
import importlib.util
import os
import re
import runpy
import shutil
import sys
import tempfile
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "crewai_dbos"
ROOMS = {"crewai": SOURCE / "_crewai_seam", "dbos": SOURCE / "_dbos_seam"}
"""By the package, where its private names stand, those of what another module hands it as well."""
PACKAGES = tuple(ROOMS)
PATCHES = SOURCE / "_patches.py"
"""Names in strings what is changed in either package, and imports neither."""
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
        at_once: By package what of that is imported with the module, whatever happens.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.imported: dict[str, set[str]] = {}
        self.at_once: dict[str, set[str]] = {}
        self._at_once = {part for part in tree.body if isinstance(part, ast.ImportFrom)}
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
            if node in self._at_once:
                self.at_once.setdefault(package, set()).update(private | named)

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


def touched() -> dict[tuple[str, str], str]:
    """Each package with a name of it that src/ touches; and a module that imports it, if one does.

    Only imports count that are made when the module itself is imported.
    """
    modules = [(path, Touched(ast.parse(path.read_bytes()))) for path in sources(SOURCE)]
    found: dict[tuple[str, str], str] = {}
    for package in PACKAGES:
        defined = defined_in(folder_of(package)) - set(dir(namedtuple("Any", ())))
        for path, module in modules:
            if package in module.imported or path.parent == ROOMS[package] or path == PATCHES:
                names = (module.names & defined) | module.imported.get(package, set())
                at_once = module.at_once.get(package, set())
                for name in names:
                    by = str(path.relative_to(SOURCE)) if name in at_once else ""
                    found[package, name] = found.get((package, name)) or by
    return dict(sorted(found.items()))


# Renaming -------------------------------------------------------------------------------


def renamed_copy(package: str, name: str, target: Path) -> None:
    """A copy of an installed package in `target`, in which everything called `name` is not."""
    original, copy = folder_of(package), target / package
    shutil.copytree(original, copy, copy_function=_linked)
    word = re.compile(rf"\b{name}\b")
    for path, text in texts(original).items():
        if name in text and word.search(text):
            (copy / path).unlink()  # it may be a link to the original
            (copy / path).write_text(word.sub(f"{name}_renamed", text))
    for path in sorted(copy.rglob(f"{name}*"), reverse=True):
        if path.name in (name, f"{name}.py"):
            path.rename(path.with_name(path.name.replace(name, f"{name}_renamed")))


@functools.cache
def texts(folder: Path) -> dict[Path, str]:
    """The source of each module in a folder and below it, by its path from there."""
    return {path.relative_to(folder): path.read_text() for path in sources(folder)}


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# Testing --------------------------------------------------------------------------------


PRELOADED = (
    "crewai_dbos.testing",
    "crewai_dbos.flow",
    "crewai_dbos.doctor",
    "hypothesis",
    "mcp",
    "xdist.plugin",
)


def preload() -> None:
    """Import crewAI, DBOS, what they and pytest import, which takes seconds, once for all names.

    The one of which a name is renamed is imported anew by each child, from its copy.
    """
    os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true")
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    for module in PRELOADED:
        importlib.import_module(module)


def forget(package: str) -> None:
    """Have a package imported anew, and ours with it. Neither of the two imports the other."""
    gone = re.compile(rf"(?:{package}|{SOURCE.name}|pytest_{SOURCE.name})(?:\.|$)")
    for module in [name for name in sys.modules if gone.match(name)]:
        del sys.modules[module]


def tests_for(package: str, name: str) -> Iterator[list[str]]:
    """The seam tests of a package; before all of them those that mention the name.

    pytest would not keep an order in which a module comes after tests of its own.
    """
    paths = seam_tests(package)
    if first := [f"{path}::{test}" for path in paths for test in mentioning(path, name)]:
        yield first
    yield [*map(str, paths), f"{ROOT / 'tests/test_patches.py'}::test_what_a_row_names_is_there"]


def seam_tests(package: str) -> list[Path]:
    """The modules with the seam tests of a package."""
    paths = sorted((ROOT / "tests").rglob("test_*_seam.py"))
    return [path for path in paths if (path.parent.name == "dbos_seam") == (package == "dbos")]


def mentioning(path: Path, name: str) -> list[str]:
    """The tests of a module in which a name stands; none for no name."""
    word = re.compile(rf"\b{name}\b")
    return [test for test, source in _tests_of(path).items() if name and word.search(source)]


@functools.cache
def _tests_of(path: Path) -> dict[str, str]:
    """The source of each test of a module."""
    tree = ast.parse(path.read_bytes())
    found = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    return {each.name: ast.unparse(each) for each in found if each.name.startswith("test_")}


def begin(package: str, name: str, folder: Path) -> int:
    """Start the tests of a name in `folder`, with nothing renamed if it is "".

    Returns:
        The id of the process, which ends with 0 if nobody misses the name.
    """
    if name:
        renamed_copy(package, name, folder)
    child = os.fork()
    if child == 0:
        gc.disable()  # it would go through all that is imported, again and again
        forget(package)
        os._exit(_tested(folder, list(tests_for(package, name))))
    return child


def _tested(folder: Path, tests: list[list[str]]) -> int:
    """In a child: run the lists of tests, and if they pass the smoke test, on the copy in `folder`.

    Those on Postgres, which has to be started, come last.
    """
    log = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    os.chdir(ROOT)
    importlib.invalidate_caches()
    args = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    stages: list[Callable[[], int]] = [
        *(functools.partial(_pytest, [*args, "-k", "not postgres", *some]) for some in tests),
        _smoke,
        functools.partial(_pytest, [*args, "-k", "postgres", *tests[-1]]),
    ]
    return next((code for code in map(_forked, stages) if code), 0)


def _pytest(args: list[str]) -> int:
    code = pytest.main(args)
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def _smoke() -> int:
    runpy.run_path(str(ROOT / "tests/smoke/smoke.py"))
    return 0


def _forked(work: Callable[[], int]) -> int:
    """What `work` returns in a process of its own; 1 if it raises."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def missed_by(names: Iterable[tuple[str, str]], jobs: int) -> Iterator[tuple[str, str, str]]:
    """Each package and name with the first test that fails; "" if there is none."""
    waiting = list(reversed(list(names)))
    running: dict[int, tuple[str, str, tempfile.TemporaryDirectory[str]]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            package, name = waiting.pop()
            folder = tempfile.TemporaryDirectory(prefix="mutate-")
            running[begin(package, name, Path(folder.name))] = package, name, folder
        child, status = os.wait()
        package, name, folder = running.pop(child)
        output = (Path(folder.name) / "output").read_text(errors="replace")
        folder.cleanup()
        yield package, name, _why(output) if status else ""


def _why(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("FAILED", "ERROR "))]
    return (told or lines or ["it failed without a word"])[-1][:160]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("names", nargs="*", help="only these")
    given = parser.parse_args()
    chosen = {
        (package, name): by
        for (package, name), by in touched().items()
        if not given.names or name in given.names
    }
    if given.list:
        print("\n".join(f"{package} {name}" for package, name in chosen))
        return 0
    for (package, name), by in chosen.items():
        if by:
            print(f"{package} {name}: {by} imports it", flush=True)
    preload()
    rest = [name for name, by in chosen.items() if not by]
    rest.sort(key=lambda each: any(mentioning(path, each[1]) for path in seam_tests(each[0])))
    whole = sorted({(package, "") for package, _ in rest})
    for _, _, why in missed_by(whole, given.jobs):
        if why:
            sys.exit(f"with nothing renamed: {why}")
    unmissed = []
    for package, name, why in missed_by(rest, given.jobs):
        print(f"{package} {name}: {why or 'NOBODY MISSES IT'}", flush=True)
        if not why:
            unmissed.append(f"{package} {name}")
    print(f"{len(chosen)} names; nobody misses: {', '.join(unmissed) or 'none'}")
    return 1 if unmissed else 0


if __name__ == "__main__":
    sys.exit(main())
