"""The doctor sees all that is registered in its process, so each test has a process of its own
as far as that goes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dbos._dbos
import pytest
from crewai.events import crewai_event_bus
from crewai.hooks import InterceptionPoint, get_hooks, register_hook, unregister_hook
from dbos import DBOS
from typer.testing import CliRunner, Result

from crewai_dbos._journal import run_scope
from crewai_dbos._runs.registry import agents, crews, flows
from crewai_dbos.cli import app

ABOUT_PROCESSES = (
    "DBOS__APPVERSION",
    "DBOS__VMID",
    "DBOS_SYSTEM_DATABASE_URL",
    "WEB_CONCURRENCY",
    "UVICORN_WORKERS",
)

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dbos._dbos, "_dbos_global_registry", None)
    monkeypatch.setattr(agents, "_definitions", {})
    monkeypatch.setattr(crews, "_definitions", {})
    monkeypatch.setattr(flows, "_definitions", {})
    monkeypatch.setattr(run_scope, "_warned", set())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
    for name in (*ABOUT_PROCESSES, "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    log = logging.getLogger("dbos")
    handlers = list(log.handlers)
    hooks = {point: get_hooks(point) for point in InterceptionPoint}
    for point, registered in hooks.items():
        for hook in registered:
            unregister_hook(point, hook)
    with crewai_event_bus.scoped_handlers():
        yield
    for point, registered in hooks.items():
        for hook in get_hooks(point):
            unregister_hook(point, hook)
        for hook in registered:
            register_hook(point, hook)
    DBOS.destroy()
    # A handler made inside the command writes to a stream that is closed when the command ends.
    log.handlers[:] = handlers


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write a module that can be imported while the test runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    written: list[str] = []

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def doctor() -> Run:
    """The command in this process, which has crewAI imported already."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


def report(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)
