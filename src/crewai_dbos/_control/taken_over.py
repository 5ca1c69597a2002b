"""What a fork has from the run that it was made of: the steps that were copied into it."""

from __future__ import annotations

from collections.abc import Mapping

from crewai_dbos._dbos_seam.stored_runs import StoredRun
from crewai_dbos._stored import names


def is_taken_over(row: StoredRun, ended_ms: int | None) -> bool:
    """Whether a step was copied: it had ended before the fork was made.

    Args:
        row: The run that has it.
        ended_ms: When it ended; None of what DBOS stores without a time.
    """
    if row.forked_from is None or ended_ms is None:
        return False
    return ended_ms <= _made_ms(row)


def _made_ms(fork: StoredRun) -> int:
    """When a fork was made."""
    note = fork.attributes.get(names.FORK_ATTRIBUTE)
    # A fork that DBOS makes of a fork has the note of that one.
    if isinstance(note, Mapping) and note.get("of") == fork.forked_from:
        noted = note.get("ms")
        # The clock of SQLite may have whole seconds only.
        return max(fork.created_ms, noted if type(noted) is int else 0)
    return fork.created_ms
