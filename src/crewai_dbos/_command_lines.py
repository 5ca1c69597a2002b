"""The commands that our messages tell people to give, as one types them."""

from __future__ import annotations

from shlex import quote

INBOX = "crewai-dbos inbox"
"""Shows what runs ask people, and takes the answers."""

END = "end"
"""The place after everything that a run has recorded, as `fork` takes it."""


def resume(run_id: str) -> str:
    """Goes on with a run that was stopped. Unlike ``DBOS.resume_workflow`` it keeps its queue."""
    return f"crewai-dbos runs resume {quote(run_id)}"


def show(run_id: str) -> str:
    """Shows what is in a run."""
    return f"crewai-dbos runs show {quote(run_id)}"


def fork(run_id: str, *places: str, version: str | None = None) -> str:
    """Makes a new run of one, from places on; from its beginning if none is given."""
    at = "".join(f" --at {quote(place)}" for place in places)
    return f"crewai-dbos runs fork {quote(run_id)}{at}{_to(version)}"


def move(run_id: str, version: str | None = None) -> str:
    """Gives a run to another version of the application; to the newest if none is given."""
    return f"crewai-dbos runs move {quote(run_id)}{_to(version)}"


def raise_budget(run_id: str, unit: str, limit: float) -> str:
    """Lets a run that has stopped at its budget cost more, once it is resumed."""
    number = int(limit) if unit == "tokens" else f"{limit:.12g}"
    return f"crewai-dbos runs raise-budget {quote(run_id)} --{unit} {number}"


def worker() -> str:
    """Starts a worker with what is defined in a module."""
    return "crewai-dbos worker MODULE"


def _to(version: str | None) -> str:
    return "" if version is None else f" --version {quote(version)}"
