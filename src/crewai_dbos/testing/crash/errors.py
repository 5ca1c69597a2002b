"""What keeps a crash test from being made at all."""

from __future__ import annotations

from crewai_dbos.errors import CrewaiDbosError


class CrashTestError(CrewaiDbosError):
    """There is nothing to crash: the message says what to put right first."""
