"""What a fork makes again, for whoever is about to make one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from crewai_dbos._journal.entry import Entry
from crewai_dbos._stored import names

_COUNTED = {
    "person": ("question to people", "questions to people"),
    "memory": ("call of memory", "calls of memory"),
    "file": ("output file", "output files"),
    names.BEFORE_KICKOFF: ("before_kickoff callback", "before_kickoff callbacks"),
    names.AFTER_KICKOFF: ("after_kickoff callback", "after_kickoff callbacks"),
    names.CALLBACK: ("callback", "callbacks"),
    names.STEP_CALLBACK: ("step callback", "step callbacks"),
    names.GUARDRAIL: ("guardrail", "guardrails"),
}
"""By kind of an entry, what one and what several are called; others nobody outside hears of."""


@dataclass(frozen=True)
class MadeAgain:
    """What of a run's record a fork does not keep, as far as it has an effect.

    What is made again may go another way than it did: it is the code and the answers that decide.

    Attributes:
        llm_requests: How many requests to LLMs.
        tools: The tools, by name, with how often each was called.
        steps: The recorded steps, likewise.
        methods: The methods of flows whose code runs again, likewise.
        others: What else, by what it is called, with how often.

    Example::

        run = crew.start({"topic": "otters"})
        print(run.get_result().raw)
        again = control.made_again(run.workflow_id, "task:1")
        print(again.llm_requests, dict(again.tools), "in short:", again)
    """

    llm_requests: int
    tools: dict[str, int]
    steps: dict[str, int]
    methods: dict[str, int]
    others: dict[str, int]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return any(vars(self).values())

    def __str__(self) -> str:
        return ", ".join(self._parts()) or "nothing"

    def _parts(self) -> Iterator[str]:
        if self.llm_requests:
            yield f"{self.llm_requests} LLM request{'s' if self.llm_requests > 1 else ''}"
        for what in ("tool", "step", "method"):
            found: dict[str, int] = vars(self)[f"{what}s"]
            if found:
                named = (f"{name} ({n} times)" if n > 1 else name for name, n in found.items())
                yield f"{what if len(found) == 1 else f'{what}s'} {', '.join(named)}"
        for what, count in self.others.items():
            yield f"{count} {what}"


def made_again(entries: Iterable[Entry], own_steps: int) -> MadeAgain:
    """What is made again if these entries are left out, and so many steps of the user's own."""
    left_out = list(entries)
    counts = Counter(entry.kind for entry in left_out if entry.kind in _COUNTED)
    others = {_COUNTED[kind][count > 1]: count for kind, count in counts.items()}
    if own_steps:
        others["DBOS step" if own_steps == 1 else "DBOS steps"] = own_steps
    methods = (e.path.rpartition("/")[2] for e in left_out if e.what == names.METHOD_END)
    return MadeAgain(
        llm_requests=sum(entry.kind == "llm" for entry in left_out),
        tools=_named(entry.what for entry in left_out if entry.kind == "tool"),
        steps=_named(entry.what for entry in left_out if entry.kind == "step"),
        methods=_named(method.rpartition("#")[0] for method in methods),
        others=others,
    )


def _named(whats: Iterable[str]) -> dict[str, int]:
    """By name, how often: of ``tool:search(1f2e...)`` that is ``search``."""
    return dict(Counter(unquote(names.without_digest(what).partition(":")[2]) for what in whats))
