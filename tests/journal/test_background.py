"""A call in the background may start and end whenever it likes."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from journal.helpers import call, only_sqlite, shape, swallowing, thread, work
from support.entries import how_many
from support.runs import Plan, every_step, finish, fork, run_id


def beside(save_after: int, save_ends_after: int) -> Plan:
    """Two calls, and one in the background that starts and ends after so many of them."""

    def plan() -> list[Any]:
        steps = [threading.Event() for _ in range(4)]
        saved: list[Any] = []
        with joined("work") as scope:

            def body() -> str:
                assert steps[save_ends_after].wait(30)
                return work.do("save")

            def save() -> None:
                assert steps[save_after].wait(30)
                call = Call("save", kind="work", background=True)
                try:
                    saved.append(scope.run(call, body))
                finally:
                    steps[3].set()

            background = thread(lambda: swallowing(save))
            background.start()
            try:
                steps[0].set()
                if save_ends_after == 0:
                    assert steps[3].wait(30)
                first = call(scope, "a")
                steps[1].set()
                second = call(scope, "b")
                steps[2].set()
            finally:
                for step in steps[:3]:
                    step.set()
                background.join(30)
        return [first, second, *saved]

    return plan


TIMINGS = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]


@pytest.mark.some_entries
@only_sqlite
@pytest.mark.parametrize("recorded", TIMINGS, ids=str)
def test_a_call_in_the_background_may_be_early_or_late_on_recovery(
    dbos: None, recorded: tuple[int, int]
) -> None:
    run = run_id()
    expected = finish(beside(*recorded), run)
    assert expected == ["a 1", "b 1", "save 1"]
    # The second next one first: of these some are later than what was recorded, some earlier.
    at = TIMINGS.index(recorded) + 2
    for timing in [*TIMINGS, *TIMINGS][at : at + how_many(1, len(TIMINGS))]:
        for step in every_step(run):
            work.done.clear()
            again = fork(run, step, beside(*timing))
            assert shape(again) == shape(expected)
            assert work.done.total() == len(every_step(run)) - every_step(run).index(step) - 1
