"""One DBOS for all tests of a module, on SQLite; those of which SQL differs are on both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from crewai_dbos.testing import text
from support.controlling import one_dbos
from support.databases import SQLITE_HERE
from support.serving import Serve, serving


@pytest.fixture(scope="module", params=SQLITE_HERE)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory) as url:
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    """Starts a model, which says "done" unless it is told what else."""
    yield from serving(monkeypatch, lambda _: text("done"))


@pytest.fixture
def sql(url: str) -> Iterator[Callable[..., Any]]:
    """Executes a statement; ``{ws}`` and ``{steps}`` in it are DBOS's tables."""
    engine = sa.create_engine(url)
    prefix = "" if url.startswith("sqlite") else "dbos."

    def execute(statement: str, **values: Any) -> Any:
        named = statement.format(ws=f"{prefix}workflow_status", steps=f"{prefix}operation_outputs")
        with engine.begin() as connection:
            return connection.execute(sa.text(named), values)

    yield execute
    engine.dispose()
