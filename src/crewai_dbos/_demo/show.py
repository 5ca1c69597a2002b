"""The story on a terminal, and its figures as a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crewai_dbos._demo import mailer_path
from crewai_dbos._demo.child import RUN_ID
from crewai_dbos._demo.story import Event, Figures, Outcome, Step, database_url

_STYLES = {
    "part": "bold",
    "kill": "bold red",
    "journal": "cyan",
    "email": "green",
    "llm": "",
    "start": "cyan",
    "end": "bold",
}


class Show:
    """Prints what happens as it happens; on something else than a terminal, as plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, event: Event) -> None:
        if event.kind == "part":
            self._console.print()
        pid = "" if event.pid is None else f"{event.pid:>8}  "
        indent = "" if event.kind == "part" else " " * 10
        self._console.print(
            Text(pid or indent, "dim") + Text(event.text, _STYLES[event.kind]), soft_wrap=True
        )

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            self._console.print(f"({what})")
            yield
