"""The order in which crewAI learns that the methods of a flow have ended.

A flow's engine does everything on one event loop; only when its methods end does not depend on what
came before. So it is told of these ends one at a time, in the order of their entries, in the first
run as in every other: what it decides by them (which listener wins, which of several triggers comes
last) is then the same.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable

SETTLE = 20
"""Passes of the event loop, beside two for each method of a chain, in which the engine acts."""

_CAUGHT_UP = -1

PATIENCE = 5.0
"""Seconds in which nothing moves, after which a turn is taken not to come."""

GLANCE = 0.25
"""Seconds between two looks at whether something moves."""


class Turns:
    """Lets one end pass after the other. Belongs to one event loop.

    Args:
        recorded: The step ids of the ends that are recorded.
    """

    def __init__(self, recorded: Iterable[int]) -> None:
        self._pending = sorted(recorded)
        self._recorded = set(self._pending)
        self._passed: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._settling = False
        self._at_work = 0
        self._moves = 0

    def enter(self) -> None:
        """A method is at work."""
        self._at_work += 1
        self._moves += 1

    def leave(self) -> None:
        """A method is not at work any more."""
        self._at_work -= 1
        self._moves += 1

    def expect(self, step_id: int) -> None:
        """The end with this id is being recorded."""
        heapq.heappush(self._pending, step_id)

    async def take(self, step_id: int) -> bool:
        """Wait until every end with a smaller id has passed.

        Returns:
            Whether they have. If not, nothing is at work that could still end.
        """
        return await self._wait(step_id, lambda: self._is_next(step_id))

    async def caught_up(self) -> bool:
        """Wait until every end that was recorded before this execution has passed.

        A method that runs now would otherwise change a state that is still being put back.

        Returns:
            Whether they have, as `take`.
        """
        return await self._wait(_CAUGHT_UP, lambda: not self._recorded)

    async def _wait(self, key: int, is_over: Callable[[], bool]) -> bool:
        while not is_over():
            turn = self._waiting.setdefault(key, asyncio.get_running_loop().create_future())
            self.leave()
            try:
                came = await self._comes(turn)
            finally:
                self.enter()
                self._waiting.pop(key, None)
            if not came and not is_over():
                return False
        return True

    async def _comes(self, turn: asyncio.Future[None]) -> bool:
        """Whether `turn` comes before nothing has moved for a while that could bring it."""
        still, moves = 0.0, self._moves
        while still < PATIENCE:
            looked = time.monotonic()
            if (await asyncio.wait({turn}, timeout=GLANCE))[0]:
                return True
            took = time.monotonic() - looked
            if self._at_work or self._settling or self._moves != moves:
                still, moves = 0.0, self._moves
            elif took < 2 * GLANCE:  # a loop that comes late has had no time for the engine either
                still += took
        return False

    def give(self, step_id: int, depth: int) -> None:
        """The engine is told of the end now; the next one follows when it has acted on it.

        Args:
            step_id: The end's; it may have been given already.
            depth: How many methods led to the one that ended.
        """
        if step_id in self._passed:
            return
        self._passed.add(step_id)
        self._moves += 1
        # A method that is at work alone need not wait for others.
        ticks = 2 * depth + SETTLE if self._waiting or self._at_work > 1 else 0
        self._settle(ticks)

    def left(self) -> list[int]:
        """The ids of the ends that have not come."""
        return [step_id for step_id in self._pending if step_id not in self._passed]

    def _is_next(self, step_id: int) -> bool:
        if self._settling:
            return False
        return not self._pending or self._pending[0] >= step_id

    def _settle(self, ticks: int) -> None:
        self._settling = ticks > 0
        if ticks:
            asyncio.get_running_loop().call_soon(self._settle, ticks - 1)
            return
        while self._pending and self._pending[0] in self._passed:
            step_id = heapq.heappop(self._pending)
            self._passed.discard(step_id)
            self._recorded.discard(step_id)
        if self._pending:
            self._wake(self._pending[0])
        if not self._recorded:
            self._wake(_CAUGHT_UP)

    def _wake(self, key: int) -> None:
        turn = self._waiting.get(key)
        if turn is not None and not turn.done():
            turn.set_result(None)
