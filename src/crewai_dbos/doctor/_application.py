"""What can be seen of the DBOS application around a definition without starting it."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from crewai_dbos._dbos_seam.configuration import configuration
from crewai_dbos._dbos_seam.decorated import registered_functions
from crewai_dbos._stored import names

COMPUTED = object()
"""Stands for a value that only running the program could tell."""

DATABASE_URL = "DBOS_SYSTEM_DATABASE_URL"
"""The environment variable that a worker and the other commands take for the database."""


@dataclass(frozen=True)
class Application:
    """The application that the inspected definition is part of.

    Attributes:
        config: What is known of its `DBOSConfig`; a missing name is not set. None if there is
            neither a DBOS instance nor a config in the source.
        workflows: The workflows registered in this process that are not this package's.
        steps: The steps.
        processes: How many processes the environment asks a web server for; 1 if it does not say.
        limits: How many runs may be at work at once, in all processes, by where the source of the
            module says so: a queue, or a batch.
    """

    config: Mapping[str, Any] | None
    workflows: tuple[str, ...]
    steps: tuple[str, ...]
    processes: int
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def version_is_pinned(self) -> bool:
        """Whether the application version is one that the user chose, as far as can be seen."""
        return bool(
            os.environ.get("DBOS__APPVERSION")
            or (self.config or {}).get("application_version")
            or (self.config or {}).get("enable_patching")
        )

    @property
    def on_sqlite(self) -> bool | None:
        """None if that can't be seen."""
        config = self.config
        if config is not None and config.get("system_database_engine") is not None:
            return None
        url = COMPUTED if config is None else config.get("system_database_url")
        if url is COMPUTED:
            # What a worker takes for its database; in a program of its own DBOS does not.
            url = os.environ.get(DATABASE_URL) or COMPUTED
        return None if url is COMPUTED else url is None or str(url).startswith("sqlite")

    @property
    def executor_id(self) -> Any:
        """What it is set to in the config or the environment, `COMPUTED`, or None."""
        return (self.config or {}).get("executor_id") or os.environ.get("DBOS__VMID")


def around(module: ModuleType | None = None) -> Application:
    """The application of this process.

    Args:
        module: Where to look for a config in the source, if no DBOS instance has one.
    """
    config = configuration()
    if config is None and module is not None:
        config = _config_in_source(module)
    workflows, steps = registered_functions()
    ours = {*names.WORKFLOWS, names.BATCH_WORKFLOW}
    return Application(
        config=config,
        workflows=tuple(sorted(set(workflows) - ours)),
        steps=tuple(sorted(steps)),
        processes=_processes(),
        limits={} if module is None else dict(_limits_in_source(module)),
    )


def _processes() -> int:
    asked = [os.environ.get(name, "") for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")]
    asked += re.findall(r"(?:-w|--workers)[ =]?(\d+)", os.environ.get("GUNICORN_CMD_ARGS", ""))
    return max([1, *(int(number) for number in asked if number.isdigit())])


# A config in the source -----------------------------------------------------------
# Most programs call DBOS(config=...) where they start, so importing the module does not.


def _tree(module: ModuleType) -> ast.AST | None:
    try:
        return ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return None


def _config_in_source(module: ModuleType) -> dict[str, Any] | None:
    tree = _tree(module)
    if tree is None:
        return None
    dicts = dict(_assigned_dicts(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) == "DBOS":
            for keyword in node.keywords:
                value = keyword.value
                if isinstance(value, ast.Name):
                    value = dicts.get(value.id, value)
                if keyword.arg == "config" and isinstance(value, ast.Dict):
                    return _literal(value)
    return None


_LIMITED = {
    "register_queue": ("global_concurrency", "concurrency"),
    "register_queue_async": ("global_concurrency", "concurrency"),
    "kickoff_for_each": ("concurrency",),
    "akickoff_for_each": ("concurrency",),
    "kickoff_for_each_async": ("concurrency",),
}
"""The calls that limit how many runs are at work at once in all processes, and by what."""


def _limits_in_source(module: ModuleType) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_tree(module) or ast.Module([], [])):
        names = _LIMITED.get(_name(node.func), ()) if isinstance(node, ast.Call) else ()
        if not isinstance(node, ast.Call) or not names:
            continue
        of = "a batch"
        if "global_concurrency" in names:
            given = [*node.args[:1], *(kw.value for kw in node.keywords if kw.arg == "name")]
            named = given[0].value if given and isinstance(given[0], ast.Constant) else None
            of = "a queue" if named is None else f"the queue {named!r}"
        for keyword in node.keywords:
            limit = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg in names and type(limit) is int:
                yield of, limit


def _assigned_dicts(tree: ast.AST) -> Iterator[tuple[str, ast.Dict]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value


def _literal(node: ast.Dict) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant):
            return None
        name = str(key.value)
        config[name] = _from_environment(value) if name == "system_database_url" else _value(value)
    return config


def _value(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else COMPUTED


def _from_environment(node: ast.expr) -> Any:
    """What an expression stands for that may ask the environment.

    What is not set here may be set where the program runs, so its default says nothing.
    """
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        found = [_from_environment(each) for each in node.values]
        return next((each for each in found if each), found[-1])
    if isinstance(node, ast.Subscript) and _name(node.value) == "environ":
        return os.environ.get(str(_value(node.slice)), COMPUTED)
    if isinstance(node, ast.Call) and node.args and _asks_environment(node.func):
        return os.environ.get(str(_value(node.args[0])), COMPUTED)
    return _value(node)


def _asks_environment(function: ast.expr) -> bool:
    """Whether it is ``os.getenv``, or ``os.environ.get``."""
    if _name(function) == "getenv":
        return True
    of = function.value if isinstance(function, ast.Attribute) else function
    return _name(function) == "get" and _name(of) == "environ"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
