"""Where the next page of runs begins, for those who may not see the run that this one ends with."""

from __future__ import annotations

import hashlib

from crewai_dbos.control import Control

_MARK = "~"


def closed(cursor: str) -> str:
    """A cursor of `Control.runs`, with a digest in place of the id that is in it."""
    created_ms, _, run_id = cursor.partition(".")
    return f"{created_ms}{_MARK}{_digest(run_id)}"


def opened(control: Control, cursor: str) -> str:
    """The reverse of `closed`; another cursor as it is."""
    created_ms, mark, digest = cursor.partition(_MARK)
    if not mark or "." in created_ms or not (created_ms.isdecimal() and len(created_ms) < 15):
        return cursor
    # The runs of that millisecond are looked through for the one that is meant.
    following: str | None = f"{int(created_ms) + 1}."
    while following is not None:
        page = control.runs(limit=50, cursor=following)
        for run in page:
            if round(run.created.timestamp() * 1000) < int(created_ms):
                return f"{created_ms}."  # it is deleted
            if _digest(run.run_id) == digest:
                return f"{created_ms}.{run.run_id}"
        following = page.cursor
    return f"{created_ms}."


def _digest(run_id: str) -> str:
    return hashlib.sha256(f"cursor:{run_id}".encode()).hexdigest()[:20]
