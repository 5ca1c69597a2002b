"""What a run of a scenario meets and does, and forks of it from entries of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from dbos import DBOS

from crewai_dbos.testing import EffectLog, ModelServer
from crewai_dbos.testing.effects import EFFECTS
from support.entries import EVERY, some

_HOLDERS = {
    "": ("press", "seal", "stamp"),
    "callback": ("own_callback", "task_callback"),
    "embedding": ("embed",),
    "guardrail": ("guardrail", "shout"),
    "knowledge": ("query",),
    "persist": ("saved",),
    "person": ("asked", "input"),
    "step": ("deliver",),
    "tool": ("archive", "broken", "counter", "final_report", "look_up", "look_up_async", "price",
             "read_log", "search"),
    **{kind: (kind,) for kind in ("after_kickoff", "before_kickoff", "condition", "step_callback")},
}  # fmt: skip
HELD_BY = {effect: kind for kind, effects in _HOLDERS.items() for effect in effects}
"""Of which kind the entry is that holds an effect; the others are a part of a flow's method."""

World = Callable[[str, ModelServer], EffectLog]
"""Makes a folder and a log of effects of its own for what is done next, and names the model."""


def world_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Worlds in `folder`, of which the environment tells."""

    def enter(name: str, server: ModelServer) -> EffectLog:
        own = folder / name
        own.mkdir()
        for key, value in server.env.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv(EFFECTS, str(own / "effects"))
        return EffectLog(own / "effects")

    return enter


def sent(server: ModelServer) -> Counter[str]:
    """The requests that have reached the model."""
    return Counter(request.fingerprint for request in server.requests)


def done(log: EffectLog) -> list[str]:
    """What was done in a world."""
    return sorted(f"{effect.kind} {effect.fields}" for effect in log.read())


def kinds(log: EffectLog) -> Counter[str]:
    """How many effects of each kind there were in a world."""
    return Counter(effect.kind for effect in log.read())


def check_forks(
    run_id: str,
    server: ModelServer,
    outcome_of: Callable[[str], Any],
    expected: Any,
    *,
    did: Mapping[str, int] = MappingProxyType({}),
    again: Callable[[], Counter[str]] = Counter,
    starting: Callable[[Sequence[Any]], list[int]] | None = None,
    only_the_end: bool = False,
    shown: set[str] | None = None,
) -> None:
    """Forks of a run at entries of each kind come to the same, and do nothing it has a record of.

    Args:
        run_id: The run, which has ended.
        server: The model, which no other run asks meanwhile.
        outcome_of: What became of the run with an id.
        expected: What became of this one.
        did: How many effects of each kind it had.
        again: How many the forks have had until now; by default nobody counts them.
        starting: Says where to fork it, given its steps; by default it is `starts_of`.
        only_the_end: Fork it after its last step only.
        shown: As of `some`: the run is one of a table.
    """
    steps = DBOS.list_workflow_steps(run_id)
    before = len(server.requests)
    starts = starts_of(steps, shown) if starting is None else starting(steps)
    if only_the_end:
        starts = starts[-1:]
    forks = [DBOS.fork_workflow(run_id, start).get_workflow_id() for start in starts]
    for start, fork in zip(starts, forks, strict=True):
        assert outcome_of(fork) == expected, f"from {start}"

    def lacking(kind: str) -> int:
        """How many entries of a kind the forks did not begin with."""
        return sum(
            kind_of(step) == kind and step["function_id"] >= start
            for step in steps
            for start in starts
        )

    assert len(server.requests) - before <= lacking("llm")
    for effect, times in again().items():
        most = lacking(HELD_BY[effect]) if effect in HELD_BY else did[effect] * (len(starts) - 1)
        assert times <= most, f"{effect} was done {times} times, {most} are not recorded"


def starts_of(steps: Sequence[Any], shown: set[str] | None = None) -> list[int]:
    """Where to fork a run: before its first step, and after each that `some` chooses.

    Of a run of a table it is after the chosen ones and the last one: before the first step it is
    like the run itself, and like the others of the table.
    """
    chosen = [
        step["function_id"] + 1
        for step in some(steps, lambda step: str(step["function_name"]), shown)
    ]
    if shown is None or EVERY:
        return [1, *chosen]
    return sorted({*chosen, steps[-1]["function_id"] + 1})


def kind_of(step: Any) -> str:
    """``llm``, ``tool``, ...: what an entry is counted as; nothing for a step of DBOS's own."""
    output = step["output"]
    return str(output.get("kind")) if isinstance(output, dict) else ""
