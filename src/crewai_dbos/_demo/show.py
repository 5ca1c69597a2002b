"""The story on a terminal, and its figures as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crewai_dbos._demo.child import RUN_ID
from crewai_dbos._demo.story import Event, Figures, Outcome, Step, database_path, database_url

_STYLES = {
    "part": "bold",
    "start": "cyan",
    "llm": "",
    "email": "green",
    "again": "bold red",
    "kill": "bold red",
    "journal": "cyan",
    "end": "bold",
}


class Show:
    """Prints what happens as it happens; on something else than a terminal, as plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, event: Event) -> None:
        if event.kind == "part":
            self._console.print()
            margin = ""
        else:
            margin = f"{event.pid or '':>8}  "
        line = Text.assemble((margin, "dim"), (event.text, _STYLES[event.kind]))
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        if self._console.is_terminal:
            with self._console.status(what):
                yield
        else:
            self._console.print(f"{what} ...")
            yield

    def figures(self, outcome: Outcome, seconds: float) -> None:
        table = Table(title="The same agent, the same crash", title_justify="left")
        table.add_column("")
        table.add_column("crewAI alone")
        table.add_column("with crewai-dbos")
        for label, describe in _ROWS:
            table.add_row(label, describe(outcome.plain), describe(outcome.durable))
        self._console.print()
        self._console.print(table)
        self._console.print(
            "Counted by the model server, in the log that the email tool appends to and in the "
            "journal. The model is a script behind a local server; a word counts as a token. "
            f"Took {seconds:.1f} s: each new process had imported crewAI before it was needed."
        )

    def kept(self, folder: Path, steps: Sequence[Step]) -> None:
        """What `--keep` leaves behind, and where to look."""
        table = Table(title=f"The journal of run {RUN_ID!r}", title_justify="left")
        table.add_column("step", justify="right")
        table.add_column("name", overflow="fold")
        table.add_column("tokens", justify="right")
        table.add_column("recorded")
        for step in steps:
            table.add_row(
                str(step.number),
                step.name,
                str(step.tokens or ""),
                "before the kill" if step.replayed else "after it",
            )
        self._console.print()
        self._console.print(table)
        url = database_url(folder)
        for label, value in (
            ("database", str(database_path(folder))),
            ("run", f"dbos workflow get {RUN_ID} --sys-db-url {url}"),
            ("steps", f"dbos workflow steps {RUN_ID} --sys-db-url {url}"),
            ("emails", f"{folder}/*/sent.jsonl"),
            ("agent", str(Path(__file__).with_name("mailer.py"))),
        ):
            self._console.print(Text.assemble((f"{label:<9}", "dim"), value), soft_wrap=True)


def _listed(addresses: Sequence[str]) -> Text:
    return Text("\n".join(addresses), "red") if addresses else Text("none", "green")


def _replayed(figures: Figures) -> str:
    llm, tool = figures.replayed_llm_calls, figures.replayed_tool_calls
    return f"{llm} LLM, {tool} tool" if llm + tool else "0"


_ROWS: tuple[tuple[str, Callable[[Figures], str | Text]], ...] = (
    ("processes started", lambda f: str(f.processes)),
    ("LLM calls made", lambda f: f"{f.llm_calls} ({f.llm_calls_cut_off} cut off)"),
    ("emails sent", lambda f: str(len(f.emails))),
    ("emails sent twice", lambda f: _listed(f.emails_sent_twice)),
    ("calls replayed", _replayed),
    ("tokens spent", lambda f: str(f.tokens)),
    ("tokens saved by replay", lambda f: str(f.tokens_saved)),
    ("result", lambda f: f.result),
)
