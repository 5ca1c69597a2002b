"""A flow that goes round and round: with and without us, and replayed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from crewai.flow.flow import Flow, listen, router, start
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from benchmarks.databases import databases, kinds, launched
from benchmarks.harness import Row, compared, interleaved
from crewai_dbos import DBOSFlow

NAME = "flow"
PLAIN = "crewAI"
OURS = "crewai-dbos"
REPLAYED = "crewai-dbos, replayed"

GOAL = 8
"""How many times as long as crewAI alone a run may take: the methods do nothing but record."""

ROUNDS = 300
"""Of two methods and two calls each."""


class Instant(BaseLLM):
    """Answers without a request."""

    def call(self, *args: Any, **kwargs: Any) -> str:
        global _made
        _made += 1
        return "An answer of some length. " * 8


@tool
def look_up(number: int) -> str:
    """Look up a number."""
    return f"Number {number} is in the archive."


class Progress(BaseModel):
    rounds: int = 0
    last: str = ""


class Loop(Flow[Progress]):
    max_method_calls: int = 10_000

    @start("again")
    def work(self) -> str:
        self.state.rounds += 1
        self.state.last = str(look_up.run(number=self.state.rounds))
        return str(Instant(model="instant").call(self.state.last))

    @router(work)
    def enough(self) -> str:
        return "done" if self.state.rounds == _rounds else "again"

    @listen("done")
    def end(self) -> int:
        return self.state.rounds


_made = 0
_began = 0.0
_rounds = ROUNDS
_runs = count()


def measure(quick: bool, folder: Path) -> list[Row]:
    global _rounds
    rounds, _rounds = (2, 10) if quick else (3, ROUNDS)
    rows: list[Row] = []
    flow = DBOSFlow(flow_name="loop", orig_flow=_built)
    with databases(folder) as made:
        for kind in kinds(quick):
            with launched(made.fresh(kind)):
                recorded = _run(flow)[1]
                sides: dict[str, Callable[[], float]] = {
                    PLAIN: _plain,
                    OURS: lambda: _run(flow)[0],
                    REPLAYED: partial(_replay, flow, recorded),
                }
                samples = interleaved(sides, rounds)
                entries = _rounds * 4
                plain, ours, replayed = (statistics.median(each) for each in samples.values())
                notes = {
                    OURS: f"{(ours - plain) / entries:.1f} ms more for each entry",
                    REPLAYED: f"{replayed / entries:.2f} ms an entry",
                }
                case = f"{kind}, {_rounds} rounds of two methods and two calls"
                rows += compared(
                    NAME,
                    case,
                    "ms a run",
                    samples,
                    notes=notes,
                    at_most={OURS: GOAL},
                )
    return rows


def _built() -> Loop:
    global _began
    _began = time.perf_counter()
    return Loop(suppress_flow_events=True)


def _plain() -> float:
    started = time.perf_counter()
    assert Loop(suppress_flow_events=True).kickoff() == _rounds
    return (time.perf_counter() - started) * 1000


def _run(flow: DBOSFlow) -> tuple[float, str]:
    run_id = f"loop-{next(_runs)}"
    started = time.perf_counter()
    with SetWorkflowID(run_id):
        assert flow.kickoff() == _rounds
    return (time.perf_counter() - started) * 1000, run_id


def _replay(flow: DBOSFlow, run_id: str) -> float:
    """Milliseconds from when the flow is built for the replay until the end of the run."""
    global _made
    last = max(step["function_id"] for step in DBOS.list_workflow_steps(run_id))
    _made = 0
    DBOS.fork_workflow(run_id, last + 1).get_result(polling_interval_sec=0.005)
    if _made:
        raise AssertionError(f"{_made} calls were made again")
    return (time.perf_counter() - _began) * 1000
