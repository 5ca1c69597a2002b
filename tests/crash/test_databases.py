"""Databases of a crash test are empty, whatever was done in the one before."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from crewai_dbos.testing.crash._databases import Databases
from support.postgres import Postgres

ROW = "INSERT INTO dbos.workflow_status (workflow_uuid, status) VALUES ('a', 'PENDING')"


@pytest.fixture
def databases(postgres: Postgres, tmp_path: Path) -> Databases:
    return Databases(postgres.url("postgres"), tmp_path)


def rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM dbos.workflow_status").fetchone()
    assert found is not None
    return int(found[0])


def names(postgres: Postgres) -> set[str]:
    with psycopg.connect(postgres.url("postgres")) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def test_a_database_is_used_again_when_nothing_is_left_in_it(databases: Databases) -> None:
    with databases.fresh() as first:
        connection = psycopg.connect(first, autocommit=True)
        connection.execute(ROW)
        # As of a process that was killed: it is still connected, and at work.
        connection.execute("BEGIN")
        connection.execute(ROW.replace("'a'", "'b'"))
        assert rows(first) == 1
    with databases.fresh() as second:
        assert (second, rows(second)) == (first, 0)
    connection.close()
    databases.close()


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE ledger (n int)",
        "CREATE SEQUENCE numbers",
        "CREATE SCHEMA s CREATE VIEW s.v AS SELECT 1",
    ],
)
def test_one_in_which_a_program_has_made_something_is_not(databases: Databases, made: str) -> None:
    with databases.fresh() as first, psycopg.connect(first, autocommit=True) as connection:
        connection.execute(made)
    with databases.fresh() as second:
        assert second != first
    databases.close()


def test_none_is_left(databases: Databases, postgres: Postgres) -> None:
    before = names(postgres)
    with databases.fresh(), databases.fresh():
        pass
    with databases.fresh() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE ledger (n int)")
    databases.close()
    assert names(postgres) == before
