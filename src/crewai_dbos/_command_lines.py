"""The commands that our messages tell people to give, as one types them."""

from __future__ import annotations

from shlex import quote

INBOX = "crewai-dbos inbox"
"""Shows what runs ask people, and takes the answers."""


def resume(run_id: str) -> str:
    """Goes on with a run that was stopped. Unlike ``DBOS.resume_workflow`` it keeps its queue."""
    return f"crewai-dbos runs resume {quote(run_id)}"


def show(run_id: str) -> str:
    """Shows what is in a run."""
    return f"crewai-dbos runs show {quote(run_id)}"


def fork(run_id: str, at: str | None = None, version: str | None = None) -> str:
    """Makes a new run of one, from a place on; from its beginning if none is given."""
    place = "" if at is None else f" --at {at}"
    return f"crewai-dbos runs fork {quote(run_id)}{place}{_to(version)}"


def move(run_id: str, version: str | None = None) -> str:
    """Gives a run to another version of the application; to the newest if none is given."""
    return f"crewai-dbos runs move {quote(run_id)}{_to(version)}"


def worker() -> str:
    """Starts a worker with what is defined in a module."""
    return "crewai-dbos worker MODULE"


def _to(version: str | None) -> str:
    return "" if version is None else f" --version {quote(version)}"
