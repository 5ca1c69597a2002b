"""Whatever the shape of a run, wherever it stops and however its threads are timed afterwards."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, DBOSClient, SetWorkflowID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.entries import how_many
from support.python import python
from support.runs import run_id, steps
from support.trees import (
    Crash,
    Doer,
    Tree,
    check,
    employ,
    grow,
    grown,
    outcome_of,
    places,
    recorded,
    texts,
)

pytestmark = [pytest.mark.thorough, pytest.mark.some_entries]

names = st.sampled_from("ab")
leaf_kinds = st.sampled_from(["call", "call", "step", "failing"])
leaves = st.tuples(leaf_kinds, names).map(list)
plain_leaves = st.tuples(st.sampled_from(["call", "step"]), names).map(list)
numbers = st.integers(2, 4)


def branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.lists(inner, min_size=1, max_size=3), min_size=2, max_size=3)


def grouped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["part", "summary"]), names, few).map(list),
        st.tuples(st.just("threads"), branches(inner)).map(list),
        st.tuples(st.just("background"), few).map(list),
        st.tuples(st.just("tasks"), branches(plain_leaves)).map(list),
        st.tuples(st.sampled_from(["fan", "ask", "same"]), numbers).map(list),
    )


trees = st.lists(st.recursive(leaves, grouped, max_leaves=10), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)
stops = st.lists(st.tuples(st.integers(1, 12), seeds), max_size=2)
forks = st.lists(st.tuples(st.integers(0, 40), seeds), max_size=2)


@pytest.fixture
def examples(database: str) -> int:
    """How many to try on this kind of database."""
    return how_many(15, 60) if database.startswith("sqlite") else how_many(5, 20)


# The threads of DBOS use `random` while hypothesis draws.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_any_run_goes_on_from_anywhere_with_what_it_recorded(examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(trees, stops, seeds, forks)
    def goes_on(
        trees: list[Tree], stops: list[tuple[int, int]], seed: int, forks: list[tuple[int, int]]
    ) -> None:
        run = run_id()
        outcome: Any = None
        for number, (crash_at, delays) in enumerate([*stops, (None, seed)]):
            before = recorded(steps(run))
            doer = employ(Doer(seed=delays, crash_at=crash_at))
            try:
                if number == 0:
                    with SetWorkflowID(run):
                        outcome = outcome_of(DBOS.start_workflow(grow, trees))
                else:
                    outcome = outcome_of(DBOS.resume_workflow(run))
            except Crash:
                assert recorded(steps(run)) <= before | set(doer.done)
                continue
            check(trees, outcome, before, doer.done)
            break
        rows = steps(run)
        assert recorded(rows) == set(texts(outcome))
        for at, delays in forks:
            step = at % (rows[-1]["function_id"] + 2)
            before = recorded(row for row in rows if row["function_id"] < step)
            doer = employ(Doer(seed=delays))
            forked = outcome_of(DBOS.fork_workflow(run, step))
            check(trees, forked, before, doer.done)

    goes_on()


# Processes ---------------------------------------------------------------------------


def process(
    url: str, log: Path, first: int, last: int, crash_at: int
) -> subprocess.CompletedProcess[str]:
    numbers = map(str, (first, last, crash_at))
    return python("-m", "support.trees", url, log, *numbers, folder=Path(__file__).parents[1])


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_process_is_taken_over_by_the_next_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each process finishes what the last one left, starts a tree and dies somewhere in it."""
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    if kind == "postgres":
        url = request.getfixturevalue("postgres").create_database()
    log = tmp_path / "log"
    log.touch()
    chance = random.Random(kind)
    kept: dict[int, set[str]] = {}
    lines_before: dict[int, int] = {}
    kills = how_many(3, 5) if kind == "sqlite" else how_many(2, 3)
    for seed in range(kills):
        pieces = len(places(grown(seed)))
        killed = process(url, log, seed, seed, chance.randint(1, pieces))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        client = DBOSClient(system_database_url=url)
        kept[seed] = recorded(client.list_workflow_steps(f"tree-{seed}"))
        client.destroy()
        lines_before[seed] = len(log.read_text().splitlines())
    last = process(url, log, 0, kills - 1, 0)
    assert last.returncode == 0, last.stderr
    lines = [line.split(" ") for line in log.read_text().splitlines()]
    for seed, outcome in json.loads(last.stdout).items():
        run = f"tree-{seed}"
        done_after = [text for id, text in lines[lines_before[int(seed)] :] if id == run]
        check(grown(int(seed)), outcome, kept[int(seed)], done_after)
        done_before = {text for id, text in lines[: lines_before[int(seed)]] if id == run}
        assert kept[int(seed)] <= done_before
