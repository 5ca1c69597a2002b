"""All that is left of a run: the database, whole, and the log."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def everything_in(folder: Path) -> str:
    """The files of SQLite databases in `folder`, and every cell of them as a reader sees it."""
    return "\n".join(_texts(folder))


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.sqlite*")):
        yield path.read_bytes().decode("utf-8", "replace")
    for path in sorted(folder.glob("*.sqlite")):
        with sqlite3.connect(path) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    for cell in row:
                        yield from _read(cell)


def _read(cell: Any) -> Iterator[str]:
    """What a cell says, unpacked as often as it is packed."""
    if isinstance(cell, dict):
        for name, value in cell.items():
            yield from _read(name)
            yield from _read(value)
    elif isinstance(cell, list):
        for value in cell:
            yield from _read(value)
    elif isinstance(cell, bytes):
        yield cell.decode("utf-8", "replace")
    elif isinstance(cell, str):
        yield cell
        try:
            yield from _read(json.loads(cell))
        except ValueError:
            with contextlib.suppress(binascii.Error, ValueError):
                yield from _read(base64.b64decode(cell, validate=True))  # a pickle
