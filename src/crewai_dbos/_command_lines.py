"""The commands that our messages tell people to give, as one types them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

INBOX = "crewai-dbos inbox"
"""Shows what runs ask people, and takes the answers."""

END = "end"
"""The place after everything that a run has recorded, as `fork` takes it."""

FAILURE = "failure"
"""The call, or else the method, that a run has failed at, as `fork` takes it."""


def resume(run_id: str) -> str:
    """Goes on with a run that was stopped. Unlike ``DBOS.resume_workflow`` it keeps its queue."""
    return f"crewai-dbos runs resume {_word(run_id)}"


def show(run_id: str) -> str:
    """Shows what is in a run."""
    return f"crewai-dbos runs show {_word(run_id)}"


def fork(run_id: str, *places: str, version: str | None = None) -> str:
    """Makes a new run of one, from places on; from its beginning if none is given."""
    at = "".join(f" --at {_word(place)}" for place in places)
    return f"crewai-dbos runs fork {_word(run_id)}{at}{_to(version)}"


def move(run_id: str, version: str | None = None) -> str:
    """Gives a run to another version of the application; to the newest if none is given."""
    return f"crewai-dbos runs move {_word(run_id)}{_to(version)}"


def raise_budget(run_id: str, unit: str, limit: float) -> str:
    """Lets a run that has stopped at its budget cost more, once it is resumed."""
    number = int(limit) if unit == "tokens" else f"{limit:.12g}"
    return f"crewai-dbos runs raise-budget {_word(run_id)} --{unit} {number}"


def worker() -> str:
    """Starts a worker with what is defined in a module."""
    return "crewai-dbos worker MODULE"


def places_in(text: str) -> Iterator[tuple[int, int]]:
    """From where to where commands stand in a text of ours, whatever follows them."""
    for found in _COMMAND.finditer(text):
        yield found.span()


def _to(version: str | None) -> str:
    return "" if version is None else f" --version {_word(version)}"


def _word(text: str) -> str:
    """`text` as a word of a command; quoted if its end could be taken for that of a sentence."""
    made = shlex.quote(text)
    return f"'{text}'" if made == text and text.endswith(_ENDS) else made


_ENDS = (".", ",", ":")
_QUOTED = r"""'[^']*'|"'\""""
_WORD = rf"(?:{_QUOTED}|[A-Za-z0-9_@%+=:,./-])*(?:{_QUOTED}|[A-Za-z0-9_@%+=/-])"
_COMMAND = re.compile(
    r"crewai-dbos (?:"
    rf"inbox(?: list\b)?|worker(?: MODULE)?\b|runs move --even-if-running|"
    rf"runs (?:resume|show|fork|move|raise-budget) {_WORD}"
    rf"(?: --(?:at|version|tokens|usd) {_WORD}| --even-if-running)*)"
)
"""What the functions above make, and what else our messages name."""
