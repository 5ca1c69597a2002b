"""What it takes to replay a run of N recorded calls, beside DBOS's own replay of N steps.

And to open one of many long results, of which the first is asked for.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID

from benchmarks.databases import databases, kinds, launched
from benchmarks.harness import Row, compared, interleaved
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.run_scope import enclosing

NAME = "replay"
DBOS_SIDE = "DBOS.run_step"
OURS = "crewai-dbos"
GOAL = 0.1

ROUNDS = {10: 15, 100: 9, 1_000: 5, 10_000: 3}
QUICK_ROUNDS = {10: 2, 100: 2}

OPENED, OPENED_QUICK = (10_000, 20_000, 3), (100, 20_000, 1)
"""How many calls, how many characters each has returned, rounds."""
OPENED_GOAL = 1.0

ANSWER = "y" * 500
REQUEST = {"messages": [{"role": "user", "content": "x" * 500}]}


def measure(quick: bool, folder: Path) -> list[Row]:
    rows: list[Row] = []
    with databases(folder) as made:
        for kind in kinds(quick):
            url = made.fresh(kind)
            with launched(url, eager=True):
                for calls, rounds in (QUICK_ROUNDS if quick else ROUNDS).items():
                    rows += _compare(kind, url, calls, rounds)
                rows += _opened(kind, url, *(OPENED_QUICK if quick else OPENED))
    return rows


def _opened(kind: str, url: str, calls: int, size: int, rounds: int) -> list[Row]:
    """The seconds until the first of many long results is there."""
    global _answer, _asked
    # Of letters that a database can't compress.
    run, _answer = f"long-{calls}", random.Random(7).randbytes(size // 2).hex()
    _record(url, _ours, run, calls)
    samples: dict[str, list[float]] = {OURS: []}
    _asked = 1
    try:
        for _ in range(rounds):
            samples[OURS].append(_replay(run, calls, last=calls + 1) / 1000)
    finally:
        _answer, _asked = ANSWER, None
    met = "met" if statistics.median(samples[OURS]) <= OPENED_GOAL else "not met"
    case = f"{kind}, {calls:,} calls of {size / 1000:g} KB are opened, and one is asked for"
    return compared(NAME, case, "s", samples, notes={OURS: f"goal: {OPENED_GOAL:g} s, {met}"})


def _compare(kind: str, url: str, calls: int, rounds: int) -> list[Row]:
    def side(workflow: Callable[[], None], run: str) -> Callable[[], float]:
        _record(url, workflow, run, calls)
        return lambda: _replay(run, calls)

    samples = interleaved(
        {
            DBOS_SIDE: side(_bare, f"bare-{calls}"),
            OURS: side(_ours, f"ours-{calls}"),
        },
        rounds,
    )
    return compared(
        NAME,
        f"{kind}, {calls:,} calls",
        "ms a run",
        samples,
        at_most={OURS: GOAL} if calls >= 1_000 else None,
        notes={
            side: f"{statistics.median(figures) / calls:.3f} ms a call"
            for side, figures in samples.items()
        },
    )


_calls = 1
_asked: int | None = None
_answer = ANSWER
_made = 0
_seconds = 0.0


def _make() -> str:
    global _made
    _made += 1
    return _answer


@DBOS.workflow()
def _ours() -> None:
    global _seconds
    started = time.perf_counter()
    # The journal reads the run's rows when it is asked for.
    scope = enclosing()
    assert scope is not None
    for _ in range(_asked or _calls):
        scope.run(Call("llm", kind="llm", request=REQUEST), _make)
    _seconds = time.perf_counter() - started


@DBOS.workflow()
def _bare() -> None:
    global _seconds
    started = time.perf_counter()
    for _ in range(_calls):
        DBOS.run_step({"name": "llm"}, _make)
    _seconds = time.perf_counter() - started


def _record(url: str, workflow: Callable[[], None], run: str, calls: int) -> None:
    """Have a run of one call, then copy the row of that call, as recording 10,000 takes minutes."""
    global _calls
    _calls = 1
    with SetWorkflowID(run):
        workflow()
    sqlite = url.startswith("sqlite")
    table = "operation_outputs" if sqlite else "dbos.operation_outputs"
    engine = sa.create_engine(url if sqlite else url.replace("://", "+psycopg://", 1))
    with engine.begin() as connection:
        row = connection.execute(
            sa.text(f"SELECT * FROM {table} WHERE workflow_uuid = :run"), {"run": run}
        ).mappings()
        (recorded,) = row.all()
        names = ", ".join(recorded)
        values = ", ".join(f":{name}" for name in recorded)
        first = recorded["function_id"]
        copies = [
            {
                **recorded,
                "function_id": first + n,
                "function_name": recorded["function_name"].replace("#1", f"#{n + 1}"),
            }
            for n in range(1, calls)
        ]
        connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), copies)
    engine.dispose()


def _replay(run: str, calls: int, last: int | None = None) -> float:
    """Milliseconds that the workflow's body takes when all its calls are recorded.

    Args:
        run: Its id.
        calls: How many there are.
        last: The number of the last one, or of a later step; None to look it up.
    """
    global _calls, _made
    _calls, _made = calls, 0
    last = last or max(step["function_id"] for step in DBOS.list_workflow_steps(run))
    DBOS.fork_workflow(run, last + 1).get_result(polling_interval_sec=0.01)
    if _made:
        raise AssertionError(f"{_made} calls of {run} were made again")
    return _seconds * 1000
