"""One DBOS per kind of database for all tests of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource

from journal.helpers import work
from support.launching import QUICK as QUICK_POLL
from support.launching import launched
from support.runs import Rows, plans


@pytest.fixture(scope="package")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sa.Engine, Any]]:
    """A database of the user's own, and a function that writes to it in a transaction."""
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.sqlite"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE entries (what TEXT)"))
    # DBOS wants it before its launch, and remembers the launch of another test.
    DBOS(config={"system_database_url": url, **QUICK_POLL})
    datasource = SQLAlchemyDatasource.create(url)
    DBOS.destroy()

    @datasource.transaction()
    def enter(what: str) -> str:
        statement = sa.text("INSERT INTO entries VALUES (:what)")
        datasource.sql_session().execute(statement, {"what": what})
        return work.do(f"enter {what}")

    yield engine, enter
    engine.dispose()


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest, ledger: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One DBOS for all tests on it: every run has an id of its own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('journal')}/dbos.sqlite"
    else:
        url = request.getfixturevalue("postgres").create_database()
    with launched(url):
        yield url


@pytest.fixture
def dbos(database: str) -> Iterator[None]:
    work.forget()
    yield
    plans.clear()


@pytest.fixture
def rows(dbos: None, database: str) -> Iterator[Rows]:
    rows = Rows(database)
    yield rows
    rows.close()
