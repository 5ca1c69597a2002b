"""Files that only their owner may read and write, whatever the umask says."""

from __future__ import annotations

import os
from pathlib import Path

_MODE = 0o600


def create(path: Path) -> None:
    """An empty file where none is. SQLite gives those it makes beside it the same mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE))


def to_append(path: Path) -> int:
    """A descriptor that appends to `path`, which is made if it is not there."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _MODE)


def write(path: Path, text: str) -> None:
    """A file with this text, in place of the one that was there, or else that one as it was."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    create(unfinished)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
