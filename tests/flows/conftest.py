"""One DBOS for all tests of DBOSFlow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dbos import DBOS

from support.dbos_config import QUICK


@pytest.fixture(scope="package")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path: Path = tmp_path_factory.mktemp("flows") / "dbos.sqlite"
    DBOS(config={"system_database_url": f"sqlite:///{path}", **QUICK})
    DBOS.launch()
    yield
    DBOS.destroy()
