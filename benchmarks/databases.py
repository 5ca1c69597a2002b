"""The databases that DBOS is measured on, set up as people run them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dbos import DBOS

from benchmarks.harness import ROOT

_numbers = itertools.count(1)


class Databases:
    """Makes fresh system databases: SQLite as DBOS opens it, Postgres with its own defaults."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._postgres: Any = None

    def fresh(self, kind: str) -> str:
        """The URL of a new, empty database of `kind`, ``SQLite`` or ``Postgres``."""
        if kind == "SQLite":
            return f"sqlite:///{self._folder}/dbos-{next(_numbers)}.sqlite"
        if self._postgres is None:
            self._postgres = self._stack.enter_context(_postgres())
        url: str = self._postgres.create_database()
        return url


@contextmanager
def databases(folder: Path) -> Iterator[Databases]:
    """Databases in `folder`, gone with the block."""
    with ExitStack() as stack:
        yield Databases(folder, stack)


def _postgres() -> Any:
    sys.path.append(str(ROOT / "tests"))
    from support import postgres

    # The tests turn off all that makes data survive a power failure; here it belongs to the cost.
    for name in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum"):
        postgres.SETTINGS[name] = "on"
    return postgres.running_postgres()


def kinds(quick: bool) -> list[str]:
    """Which databases to measure on."""
    return ["SQLite"] if quick else ["SQLite", "Postgres"]


@contextmanager
def launched(url: str, *, eager: bool = False) -> Iterator[None]:
    """DBOS on this database.

    Args:
        eager: Whether it looks for work 50 times a second and not once, so that a fork begins at
            once. That takes half of a process's time: only for sides that both are DBOS's.
    """
    config: Any = {"name": "bench", "system_database_url": url, "log_level": "CRITICAL"}
    if eager:
        config["notification_listener_polling_interval_sec"] = 0.02
    dbos = DBOS(config=config)
    if eager:
        dbos._registry.get_internal_queue()._polling_interval_sec = 0.02
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()
