"""What a recorded call costs beside a bare step of DBOS with the same payload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbos import DBOS

from benchmarks.databases import databases, kinds, launched
from benchmarks.harness import Row, Samples, compared
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.run_scope import enclosing

NAME = "recorded call"
BARE = "DBOS.run_step"
OURS = "crewai-dbos"
GOAL = 0.80

PAYLOADS = {
    "1 KB answer to 4 KB": (1_000, 8, 500),
    "20 KB answer to 100 KB": (20_000, 40, 2_500),
}
"""Length of the answer, number of messages in the request, length of each."""


def measure(quick: bool, folder: Path) -> list[Row]:
    rounds, calls = (3, 5) if quick else (25, 20)
    rows: list[Row] = []
    with databases(folder) as made:
        for kind in kinds(quick):
            with launched(made.fresh(kind)):
                for payload in list(PAYLOADS)[: 1 if quick else None]:
                    _plan[:] = [payload, rounds, calls]
                    measured = {"sync": _sync(), "async": asyncio.run(_async())}
                    for how, samples in measured.items():
                        rows += compared(
                            NAME,
                            f"{kind}, {how}, {payload}",
                            "ms a call",
                            samples,
                            at_most={OURS: GOAL},
                        )
    return rows


_plan: list[Any] = []


def _payload() -> tuple[str, dict[str, Any]]:
    length, messages, each = PAYLOADS[_plan[0]]
    prose = "What do otters eat, and where do they sleep when it is cold? " * (each // 60 + 1)
    request = [{"role": "user", "content": f"{n} {prose}"[:each]} for n in range(messages)]
    return "y" * length, {"model": "m", "messages": request}


@DBOS.workflow()
def _sync() -> Samples:
    answer, request = _payload()
    scope = enclosing()
    assert scope is not None

    def ours() -> None:
        # A request is digested when it is made into a call, so that belongs to the cost.
        scope.run(Call("llm", kind="llm", request=request), lambda: answer)

    def bare() -> None:
        DBOS.run_step({"name": "llm"}, lambda: answer)

    samples: Samples = {}
    for side in _turns(samples):
        (ours if side == OURS else bare)()
    return samples


@DBOS.workflow()
async def _async() -> Samples:
    answer, request = _payload()
    scope = await asyncio.to_thread(enclosing)
    assert scope is not None

    async def work() -> str:
        return answer

    async def ours() -> None:
        await scope.arun(Call("llm", kind="llm", request=request), work)

    async def bare() -> None:
        await DBOS.run_step_async({"name": "llm"}, work)

    samples: Samples = {}
    for side in _turns(samples):
        await (ours if side == OURS else bare)()
    return samples


def _turns(samples: Samples) -> Iterator[str]:
    """Whose turn it is, call by call; `samples` gets the means of the rounds, but the first's."""
    _, rounds, calls = _plan
    samples.update({BARE: [], OURS: []})
    for number in range(rounds + 1):
        spent = {BARE: 0.0, OURS: 0.0}
        for call in range(calls):
            for side in (BARE, OURS) if call % 2 else (OURS, BARE):
                started = time.perf_counter()
                yield side
                spent[side] += time.perf_counter() - started
        for side, seconds in spent.items():
            if number:
                samples[side].append(seconds / calls * 1000)
