"""What is seen of the DBOS application, alive and in the source."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent
from dbos import DBOS

from crewai_dbos import DBOSAgent
from crewai_dbos.doctor import _application, inspect
from crewai_dbos.doctor._application import COMPUTED, Application
from support.launching import QUICK


@pytest.mark.parametrize("pinned", [True, False])
def test_a_launched_application(tmp_path: Path, pinned: bool) -> None:
    @DBOS.workflow(name="mine")
    def mine() -> None: ...

    @DBOS.step(name="part")
    def part() -> None: ...

    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    config: Any = {"system_database_url": url, **QUICK}
    if pinned:
        config |= {"application_version": "7", "executor_id": "one"}
    DBOS(config=config)
    before = _application.around()
    DBOS.launch()
    # Where DBOS has computed a version itself, that is not one that was set.
    assert _application.around() == before
    assert (before.workflows, before.steps, before.processes) == (("mine",), ("part",), 1)
    assert before.on_sqlite
    assert before.version_is_pinned == pinned
    assert before.executor_id == ("one" if pinned else None)


def in_source(source: str, folder: Path) -> Application:
    path = folder / "some_app.py"
    path.write_text(source)
    module = types.ModuleType("some_app")
    module.__file__ = str(path)
    return _application.around(module)


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("DBOS(config={'name': 'a'})", {"name": "a"}),
        ("dbos.DBOS(config={'name': name()})", {"name": COMPUTED}),
        ("config: DBOSConfig = {'name': 'a'}\ndef go():\n    DBOS(config=config)", {"name": "a"}),
        ("DBOS(config={**shared, 'name': 'a'})", None),
        ("DBOS(config=load())", None),
        ("DBOS(config=config)", None),
        ("x = 1", None),
        ("not python", None),
    ],
)
def test_a_config_in_the_source(source: str, config: Any, tmp_path: Path) -> None:
    assert in_source(source, tmp_path).config == config


@pytest.mark.parametrize(
    ("source", "sqlite"),
    [
        ("DBOS(config={'name': 'a'})", True),
        ("DBOS(config={'name': 'a', 'system_database_url': 'sqlite:///a'})", True),
        ("DBOS(config={'name': 'a', 'system_database_url': 'postgresql://a'})", False),
        ("DBOS(config={'name': 'a', 'system_database_url': url})", None),
        ("DBOS(config={'name': 'a', 'system_database_engine': engine})", None),
        ("", None),
    ],
)
def test_the_kind_of_database(source: str, sqlite: bool | None, tmp_path: Path) -> None:
    assert in_source(source, tmp_path).on_sqlite is sqlite


@pytest.mark.parametrize(
    ("name", "value", "processes"),
    [
        ("WEB_CONCURRENCY", "4", 4),
        ("WEB_CONCURRENCY", "auto", 1),
        ("UVICORN_WORKERS", "2", 2),
        ("GUNICORN_CMD_ARGS", "--bind :80 --workers 3", 3),
        ("GUNICORN_CMD_ARGS", "-w3", 3),
        ("GUNICORN_CMD_ARGS", "--worker-class gevent", 1),
    ],
)
def test_how_many_processes_are_asked_for(
    name: str, value: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert _application.around().processes == processes


URL = "'system_database_url': "


@pytest.mark.parametrize(
    ("source", "environment", "sqlite"),
    [
        ("", {"DBOS_SYSTEM_DATABASE_URL": "postgresql://db/app"}, False),
        ("", {"DBOS_SYSTEM_DATABASE_URL": "sqlite:///app.sqlite"}, True),
        (f"{{{URL}os.environ['DB']}}", {"DB": "postgresql://db/app"}, False),
        (f"{{{URL}os.environ['DB']}}", {"DB": "sqlite:///app.sqlite"}, True),
        (f"{{{URL}os.environ['DB']}}", {}, None),
        (f"{{{URL}environ.get('DB')}}", {"DB": "postgresql://db/app"}, False),
        (f"{{{URL}os.getenv('DB', 'sqlite:///a')}}", {"DB": "postgresql://db/app"}, False),
        # It may be set where the program runs.
        (f"{{{URL}os.getenv('DB', 'sqlite:///a')}}", {}, None),
        (f"{{{URL}os.getenv('DB') or 'sqlite:///a'}}", {}, None),
        (f"{{{URL}os.getenv('DB') or 'sqlite:///a'}}", {"DB": "postgresql://db/app"}, False),
        (f"{{{URL}url()}}", {"DBOS_SYSTEM_DATABASE_URL": "postgresql://db/app"}, False),
        # DBOS itself asks no environment.
        ("{'name': 'a'}", {"DBOS_SYSTEM_DATABASE_URL": "postgresql://db/app"}, True),
    ],
)
def test_a_database_that_the_environment_names(
    source: str,
    environment: dict[str, str],
    sqlite: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = in_source(f"DBOS(config={source})" if source else "", tmp_path)
    assert found.on_sqlite is sqlite


@pytest.mark.parametrize("url", ["postgresql://db/app", "sqlite:///app.sqlite"])
def test_the_version_of_what_a_worker_is_given(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module makes no DBOS: the worker does, with the database of the environment."""
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    agent = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini")
    found = {
        each.rule: each
        for each in inspect(DBOSAgent(agent_name="of a worker", orig_agent=agent)).findings
    }
    assert ("application-version" in found) == url.startswith("postgresql")
    assert "several-processes" not in found, "each worker has an id of its own"
    if found:
        told = found["application-version"]
        assert "as far as can be seen" in told.what
        assert "--version of crewai-dbos worker" in told.fix
