"""The definition that an import path stands for, or why there is none."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

from crewai import Agent, Crew

from crewai_dbos import _import_path
from crewai_dbos._import_path import NotFoundError
from crewai_dbos._objects import hooks_of_crews
from crewai_dbos._runs.definition import build_crew
from crewai_dbos._runs.registry import REGISTRIES, definitions
from crewai_dbos._secrets import known
from crewai_dbos.doctor._captured import is_crew_base
from crewai_dbos.doctor._flow import is_flow
from crewai_dbos.doctor._report import Finding
from crewai_dbos.errors import DefinitionError

# An argument that is missing, or unknown: Python refuses the call before we see it.
_CONSTRUCTORS = tuple(f"{name}.__init__()" for name in ("DBOSAgent", "DBOSCrew", "DBOSFlow"))


class BrokenDefinition(Exception):
    """The module does not import because a definition in it is refused."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.what)
        self.finding = finding


def load(path: str) -> tuple[list[Any], ModuleType]:
    """The agent, crew or flow at ``module:object`` and its module.

    A ``@CrewBase`` class, or a function that is annotated to return a `Crew`, is called for one, as
    a `DBOSCrew` calls it. Of a module alone all that a worker carries out which is given it.

    Raises:
        NotFoundError: There is none.
        BrokenDefinition: Importing the module raises a `DefinitionError`, or the class of a flow
            has methods that make none.
    """
    before = definitions()
    try:
        with _quietly():
            module, found = _import_path.target(path, offer=_offer)
    except NotFoundError as error:
        if error.__cause__ is not None and _is_about_a_definition(error.__cause__):
            raise BrokenDefinition(_finding(error.__cause__)) from error
        # Of what the module raised.
        raise NotFoundError(known.hide(f"{error}{_below_src(path)}")) from error.__cause__
    _, colon, name = path.partition(":")
    if not colon:
        if definitions() == before and not _holds_some(module):
            raise NotFoundError(_none_in(path, module))
        return _defined(), module
    if _builds_a_crew(found):
        return [_built(path, found)], module
    if inspect.isfunction(found):
        raise NotFoundError(
            f"{path} is a function, not an agent, a crew or a flow. If it builds a crew, make "
            f"durable = DBOSCrew(crew_name=..., orig_crew={name}) and name that, or annotate it: "
            f"-> Crew. {_offer(module, name)}"
        )
    if not _is_readable(found):
        what = type(found).__name__
        raise NotFoundError(
            f"{path} is a {what}, not an agent, a crew or a flow. {_offer(module, name)}"
        )
    if isinstance(found, type):
        _check(found)
    return [found], module


def _defined() -> list[Any]:
    """The definitions of this process."""
    return [
        definition.owner
        for registry in REGISTRIES.values()
        for name in registry.names()
        if (definition := registry.find(name)) is not None
    ]


def _holds_some(module: ModuleType) -> bool:
    """Whether a definition was made in a module, or in one that it has something of."""
    made_in = {
        registry.module_of(name) for registry in REGISTRIES.values() for name in registry.names()
    }
    owners = {id(owner) for owner in _defined()}
    seen, left = {module.__name__}, [module]
    while left:
        each = left.pop()
        if each.__name__ in made_in or owners & {id(value) for value in list(vars(each).values())}:
            return True
        for other in _known_to(each):
            if other.__name__ not in seen:
                seen.add(other.__name__)
                left.append(other)
    return False


def _known_to(module: ModuleType) -> Iterator[ModuleType]:
    """The modules that a module has imported, or has something of."""
    for value in list(vars(module).values()):
        if isinstance(value, (type, FunctionType)):
            value = sys.modules.get(value.__module__)
        if isinstance(value, ModuleType):
            yield value


def _none_in(path: str, module: ModuleType) -> str:
    told = f"{path} makes no DBOSAgent, DBOSCrew or DBOSFlow."
    plain = _readable_in(module)
    if not plain:
        return f"{told} Name the module that does, or an agent, a crew or a flow: {path}:name."
    return f"{told} It has: {', '.join(plain)}. Name what to look at: {path}:{plain[0]}."


def _below_src(path: str) -> str:
    """Where the module's file is, if that is in the folder ``src``, from which nothing imports."""
    where, colon, name = path.partition(":")
    stem = os.path.join("src", *where.split("."))
    for file in (f"{stem}.py", os.path.join(stem, "__init__.py")):
        if os.path.isfile(file) and where not in sys.modules:
            return f" Its file is: {file}{colon}{name}"
    return ""


def _built(path: str, source: Any) -> Crew:
    try:
        with _quietly(), hooks_of_crews.defined():
            return build_crew(source)
    except DefinitionError as error:
        raise BrokenDefinition(_finding(error)) from error
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise NotFoundError(known.hide(f"Calling {path} failed: {why}")) from error


def _check(flow: Any) -> None:
    try:
        flow.flow_definition()
    except ValueError as error:
        said = known.hide(str(error))
        raise BrokenDefinition(Finding("definition", "error", said, "Change it.")) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the module prints is not part of the report, and the report says what we would warn."""
    logger = logging.getLogger("crewai_dbos")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _is_about_a_definition(error: BaseException) -> bool:
    left_out = isinstance(error, TypeError) and str(error).startswith(_CONSTRUCTORS)
    return left_out or isinstance(error, DefinitionError)


def _finding(error: BaseException) -> Finding:
    what, _, fix = known.hide(str(error)).partition(". ")
    ours = os.path.dirname(os.path.dirname(__file__))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    users = [frame for frame in frames if not frame.filename.startswith(ours)]
    where = f" ({users[-1].filename}, line {users[-1].lineno})" if users else ""
    return Finding("definition", "error", f"{what}{where}.", fix or "Change it there.")


def _offer(module: ModuleType, _: str) -> str:
    names = _readable_in(module)
    return f"It has: {', '.join(names)}." if names else "It has no agents, crews or flows."


def _readable_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if _is_readable(value)]


def _is_readable(value: Any) -> bool:
    return isinstance(value, (Agent, Crew)) or is_flow(value) or _builds_a_crew(value)


def _builds_a_crew(value: Any) -> bool:
    """Whether this is a ``@CrewBase`` class, or a function that says that it returns a crew.

    No other function is called: it may be the program.
    """
    if is_crew_base(value):
        return True
    if not inspect.isfunction(value):
        return False
    try:
        returned = get_type_hints(value).get("return")
    except Exception:  # a name that is only there for a type checker
        return False
    return isinstance(returned, type) and issubclass(returned, Crew)
