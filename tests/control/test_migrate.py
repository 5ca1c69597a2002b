"""``crewai-dbos migrate``, and what roles of Postgres may do afterwards: docs/database.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from crewai import Agent, Crew, Task
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner, Result

from crewai_dbos import DBOSCrew, Worker
from crewai_dbos.cli import app
from crewai_dbos.testing import ModelServer, text
from pages.blocks import blocks
from support.launching import QUICK
from support.names import unique
from support.postgres import Postgres


@dataclass(frozen=True)
class Roles:
    """URLs of one empty database: of its owner, of who runs an application, of who only looks."""

    owner: str
    worker: str
    viewer: str

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.owner, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture
def roles(postgres: Postgres) -> Iterator[Roles]:
    name, admin = unique("rights").replace("-", "_"), postgres.url("postgres")
    urls = [postgres.url(name)]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        for role in ("worker", "viewer"):
            connection.execute(f"CREATE ROLE {name}_{role} LOGIN PASSWORD 'open'")
            its = sa.make_url(urls[0]).set(username=f"{name}_{role}", password="open")
            urls.append(its.render_as_string(hide_password=False))
    yield Roles(*urls)
    DBOS.destroy()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for role in ("worker", "viewer"):
            connection.execute(f"DROP ROLE {name}_{role}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def role_of(url: str) -> str:
    return str(sa.make_url(url).username)


def carried_out(url: str) -> str:
    """What a run of a crew gives, with a worker whose role this is."""
    agent = Agent(role="Writer", goal="Write", backstory="Brief.", llm="openai/gpt-4o-mini")
    task = Task(description="Write.", expected_output="A text", agent=agent)
    crew = DBOSCrew(
        crew_name=unique("crew"), orig_crew=Crew(agents=[agent], tasks=[task]), events=True
    )
    config: Any = {**QUICK, "system_database_url": url, "log_level": "CRITICAL"}
    DBOS(config={**config, "application_version": "tests-1"})
    with Worker(lease=600, grace=0), SetWorkflowID("mine"):
        return str(crew.start({}).get_result().raw)


def test_a_role_that_may_make_no_tables(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    DBOS.migrate(roles.owner, application_role=role_of(roles.worker))  # as `dbos migrate` does
    with pytest.raises(Exception, match="permission denied"):
        carried_out(roles.worker)
    DBOS.destroy()
    for _ in range(2):
        made = run("migrate", "--db-url", roles.owner, "--app-role", role_of(roles.worker))
        assert (made.exit_code, made.output) == (0, "The tables are those of this release.\n")
    with ModelServer(lambda request: text("Done.")) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        assert carried_out(roles.worker) == "Done."

    assert "may not do that: permission denied" in run("runs", "list", "-s", roles.viewer).output
    roles.execute(
        f"GRANT USAGE ON SCHEMA dbos TO {role_of(roles.viewer)}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA dbos TO {role_of(roles.viewer)}",
    )
    for command in (["runs", "list"], ["runs", "show", "mine"]):
        shown = run(*command, "-s", roles.viewer)
        assert (shown.exit_code, "mine" in shown.output) == (0, True), shown.output
    for command in (["runs", "cost", "mine"], ["runs", "watch", "mine"], ["workers"], ["inbox"]):
        assert run(*command, "-s", roles.viewer).exit_code == 0
    kept = run("runs", "prune", "--older-than", "0s", "--yes", "-s", roles.viewer)
    assert (kept.exit_code, "permission denied" in kept.output) == (2, True)

    (block,) = blocks("docs/database.md")
    shown: dict[str, Any] = {}
    exec(block, shown)
    shown["forget"](roles.worker, "mine")
    assert run("runs", "list", "-s", roles.viewer).output == "There is no such run.\n"
    with psycopg.connect(roles.viewer) as connection:
        for table in ("operation_outputs", "workflow_input", "crewai_dbos_events"):
            left = connection.execute(f"SELECT count(*) FROM dbos.{table}").fetchone()
            assert left == (0,), table


def test_a_database_that_the_role_may_not_migrate(roles: Roles) -> None:
    refused = run("migrate", "--db-url", roles.worker)
    assert refused.exit_code == 2
    assert refused.output.startswith("The tables can't be made: permission denied for database")


def test_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    assert run("migrate", "--db-url", url).exit_code == 0
    assert run("runs", "list", "--db-url", url).output == "There is no such run.\n"
    refused = run("migrate", "--db-url", url, "--app-role", "app")
    assert (refused.exit_code, "only supported for Postgres" in refused.output) == (2, True)
    assert run("migrate").exit_code == 2


@pytest.mark.crash
def test_a_worker_that_may_make_no_tables_names_the_command(roles: Roles, tmp_path: Path) -> None:
    DBOS.migrate(roles.owner, application_role=role_of(roles.worker))
    (tmp_path / "app.py").write_text(
        "from crewai.flow.flow import Flow\n"
        "from crewai_dbos import DBOSFlow\n"
        "flow = DBOSFlow(flow_name='flow', orig_flow=Flow)\n"
    )
    command = [sys.executable, "-m", "crewai_dbos.cli", "worker", "app", "--db-url", roles.worker]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith("as a role that may: crewai-dbos migrate")
