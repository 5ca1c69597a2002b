"""DBOS for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbos import DBOS, DBOSConfig

# DBOS.destroy() waits for one more poll on SQLite, a second by default.
QUICK: DBOSConfig = {"name": "tests", "notification_listener_polling_interval_sec": 0.02}


@contextmanager
def launched_in(folder: Path) -> Iterator[None]:
    """DBOS is launched in the block, with a database in `folder`."""
    DBOS(config={"system_database_url": f"sqlite:///{folder}/dbos.sqlite", **QUICK})
    DBOS.launch()
    yield
    DBOS.destroy()
