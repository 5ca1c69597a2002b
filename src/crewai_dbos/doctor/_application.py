"""What can be seen of the DBOS application around a definition without starting it."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from crewai_dbos._dbos_seam.configuration import configuration
from crewai_dbos._dbos_seam.decorated import registered_functions
from crewai_dbos._stored import names

COMPUTED = object()
"""Stands for a value that only running the program could tell."""


@dataclass(frozen=True)
class Application:
    """The application that the inspected definition is part of.

    Attributes:
        config: What is known of its `DBOSConfig`; a missing name is not set. None if there is
            neither a DBOS instance nor a config in the source.
        workflows: The workflows registered in this process that are not this package's.
        steps: The steps.
        processes: How many processes the environment asks a web server for; 1 if it does not say.
    """

    config: Mapping[str, Any] | None
    workflows: tuple[str, ...]
    steps: tuple[str, ...]
    processes: int

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
        if self.config is None:
            return None
        url = self.config.get("system_database_url")
        if url is COMPUTED or self.config.get("system_database_engine") is not None:
            return None
        return url is None or str(url).startswith("sqlite")

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
    )


def _processes() -> int:
    asked = [os.environ.get(name, "") for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")]
    asked += re.findall(r"(?:-w|--workers)[ =]?(\d+)", os.environ.get("GUNICORN_CMD_ARGS", ""))
    return max([1, *(int(number) for number in asked if number.isdigit())])


# A config in the source -----------------------------------------------------------
# Most programs call DBOS(config=...) where they start, so importing the module does not.


def _config_in_source(module: ModuleType) -> dict[str, Any] | None:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
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
        config[str(key.value)] = value.value if isinstance(value, ast.Constant) else COMPUTED
    return config


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
