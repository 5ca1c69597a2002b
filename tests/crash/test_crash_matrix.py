"""A run killed with SIGKILL at every moment of calls of each kind is finished by another process.

No completed call is made again, the one in flight at most once, and the answer is the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any

import pytest

from crash import models, table
from crash.names import ASK
from crash.test_command_lines import SECRET, at_work
from crewai_dbos.testing import Reply, Request
from crewai_dbos.testing.crash import CrashTest, Position, Verdict
from crewai_dbos.testing.crash.positions import in_order_of_names
from crewai_dbos.testing.effects import Effect
from support.crashing import killed_apart, killed_in_chains, some_positions, taking_turns
from support.databases import some_here
from support.entries import EVERY

pytestmark = pytest.mark.crash

TASK = {"description": ASK, "expected_output": "The receipts."}

MODES = {
    "react": ("react_postman", models.react),
    "native": ("native_postman", models.letters(["Ann"], ["Bob"])),
    # Two equal calls at the same time, and one that comes again in the next turn.
    "parallel": ("native_postman", models.letters(["Ann", "Bob", "Ann"], ["Bob", "Eve"])),
}

EVERYWHERE = list(product(MODES, ("sync", "async"), ("sqlite", "postgres")))
HERE = [
    ("native", "sync", "sqlite"),
    ("react", "async", "sqlite"),
    ("parallel", "sync", "sqlite"),
    ("parallel", "async", "postgres"),  # one call after the other: test_killed_again_and_again
]

MOMENTS = {"before", "during", "unrecorded", "after"}


@pytest.fixture
def matrix(database_kind: str) -> Iterator[Callable[..., CrashTest]]:
    """Builds a matrix on a kind of database."""
    with ExitStack() as stack:

        def build(mode: str, entry: str, more: str = "", **options: Any) -> CrashTest:
            agent, script = MODES[mode]
            asks = f"{ASK}{more}"
            return stack.enter_context(
                CrashTest(
                    f"crash.application:{agent}",
                    {**TASK, "description": asks} if entry == "sync" else {"messages": asks},
                    model=options.pop("model", script),
                    asynchronous=entry == "async",
                    database=database_kind,
                    **options,
                )
            )

        yield build


class Report:
    """Collects the verdicts of one test."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self._started = time.monotonic()

    def line(self, name: str) -> table.Line:
        return table.line(name, self.verdicts, time.monotonic() - self._started)

    def check(self) -> None:
        wrong = [str(verdict) for verdict in self.verdicts if not verdict.ok]
        assert not wrong, "\n".join(wrong)
        for verdict in self.verdicts:
            # Of calls that run side by side a kill may cut each one short, but each only once.
            cut_short = [verdict.in_flight.count(name) for name in set(verdict.in_flight)]
            assert max(cut_short, default=0) <= verdict.observed.deaths, str(verdict)
            assert keys_of(verdict.observed.effects), str(verdict)


def keys_of(effects: list[Effect]) -> dict[str, str]:
    """The idempotency key of each entry: the same each time, and no other's."""
    keys = {effect.fields["entry"]: effect.fields["key"] for effect in effects}
    assert all(effect.fields["key"] == keys[effect.fields["entry"]] for effect in effects)
    assert len(set(keys.values())) == len(keys)
    return keys


@pytest.fixture
def report(request: pytest.FixtureRequest, all_lines: list[table.Line]) -> Iterator[Report]:
    name = request.node.name.removeprefix("test_")
    reported = Report()
    yield reported
    all_lines.append(reported.line(request.node.callspec.id if name.startswith("every") else name))


@pytest.mark.some_entries
@pytest.mark.parametrize(
    ("mode", "entry", "database_kind"), some_here(EVERYWHERE, HERE), indirect=["database_kind"]
)
def test_every_position(
    mode: str, entry: str, database_kind: str, matrix: Any, report: Report
) -> None:
    test = matrix(mode, entry)
    every = test.positions()
    for entry_name in {position.entry for position in every} - {"result"}:
        assert {p.moment for p in every if p.entry == entry_name} == MOMENTS
    chosen = some_positions(every)
    if database_kind != "sqlite":  # what differs by database is the writing
        chosen = [position for position in chosen if position.moment in ("unrecorded", "after")]
    all_of_them = EVERY or mode == "react"
    if not all_of_them:
        chosen = taking_turns(chosen)
    if (mode, entry, database_kind) == ("native", "sync", "sqlite"):
        report.verdicts += killed_apart(test, chosen)
    else:
        # A chain for each moment, where there are all.
        chains = len(MOMENTS) if all_of_them and database_kind == "sqlite" else None
        report.verdicts += killed_in_chains(test, chosen, chains)
    report.check()


@pytest.mark.parametrize(
    "database_kind", some_here(("sqlite", "postgres"), ("postgres",)), indirect=True
)
def test_killed_again_and_again(matrix: Any, report: Report) -> None:
    """Each process gets one call further: it is killed before it could record the next one."""
    # Not the parallel calls: which of them the last process had recorded is a matter of chance.
    test = matrix("native", "sync")
    kills = [p for p in test.positions() if p.moment == "unrecorded" and p.entry != "result"]
    report.verdicts.append(test.run(*kills))
    report.check()


@pytest.mark.every_moment
def test_fresh_interpreters(matrix: Any, report: Report, database_kind: str) -> None:
    """The same without the fork server: a new interpreter imports the module and launches DBOS.

    What it is given is on no command line.
    """
    lines: list[list[str]] = []

    def watched(request: Request) -> Reply:
        lines.extend(at_work())
        assert SECRET in str(request.messages)
        return MODES[mode][1](request)

    of = {"sqlite": ("parallel", "sync", "/tool:")}
    mode, entry, kind = of.get(database_kind, ("react", "async", "/llm#"))
    given = {"more": f" {SECRET}", "environment": {"PASSWORD": SECRET}}
    test = matrix(mode, entry, fresh=True, model=watched, **given)
    # Of a fork, which takes seconds less.
    test._undisturbed = matrix(mode, entry, **given).undisturbed
    during = [p for p in test.positions() if p.moment == "during" and kind in p.entry]
    report.verdicts.append(test.run(during[1]))
    report.check()
    assert "crash._inside" in str(lines)
    assert SECRET not in str(lines)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_sample_is_spread_and_reproducible(matrix: Any) -> None:
    test = matrix("native", "sync")
    every = test.positions()
    chosen = test.positions(5, seed=7)
    assert chosen == test.positions(5, seed=7) != test.positions(5, seed=8)
    assert chosen == [position for position in every if position in chosen]
    fifth = len(every) / 5
    places = sorted(in_order_of_names(every).index(position) for position in chosen)
    assert [int((place + 0.5) // fifth) for place in places] == [0, 1, 2, 3, 4]
    assert test.positions(10_000) == every
    assert isinstance(chosen[0], Position)
