"""The order in which a flow's engine hears of ends, by itself: who waits, and who gives up."""

from __future__ import annotations

import asyncio
import time

import pytest

from crewai_dbos._flows import turns
from crewai_dbos._flows.turns import Turns


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.2)
    monkeypatch.setattr(turns, "GLANCE", 0.02)


async def end(order: Turns, step_id: int) -> bool:
    """A method whose end is recorded comes to it."""
    order.enter()
    try:
        return await order.take(step_id)
    finally:
        order.leave()
        order.give(step_id, depth=0)


def test_a_turn_that_nothing_can_bring_does_not_come() -> None:
    async def only_the_second() -> bool:
        return await end(Turns([1, 2]), 2)

    assert not asyncio.run(only_the_second())


def test_a_busy_event_loop_is_not_taken_for_an_end_that_never_comes() -> None:
    async def busy() -> None:
        while True:
            await asyncio.sleep(0)
            time.sleep(0.03)  # what a machine with too much to do does to a loop

    async def both() -> list[bool]:
        order = Turns([1, 2])
        load = asyncio.create_task(busy())
        try:
            return await asyncio.gather(end(order, 2), end(order, 1))
        finally:
            load.cancel()

    assert asyncio.run(both()) == [True, True]


def test_a_method_at_work_may_take_its_time() -> None:
    async def slow(order: Turns) -> bool:
        order.enter()
        await asyncio.sleep(3 * turns.PATIENCE)
        order.leave()
        return await end(order, 1)

    async def both() -> list[bool]:
        order = Turns([1, 2])
        return await asyncio.gather(end(order, 2), slow(order))

    assert asyncio.run(both()) == [True, True]
