"""A run that is lost after it was asked about, and before its call begins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow, step
from crewai_dbos._journal import ownership
from support.launching import launched
from support.names import unique


class LostAtOnce:
    """Says of a run that it is ours, and once more, and then that it is another's."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.is_told = threading.Event()

    def is_open(self, run_id: str, owner_xid: str | None) -> bool:
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0

    def once_more(self) -> None:
        self.left = 1

    def is_lost(self, run_id: str, owner_xid: str | None) -> bool:
        self.is_told.set()
        return True


@pytest.fixture
def gate() -> Iterator[LostAtOnce]:
    found = LostAtOnce()
    ownership.check_with(found)
    yield found
    ownership.check_with(None)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_its_call_is_not_made(gate: LostAtOnce, is_async: bool, database_url: str) -> None:
    calls: list[str] = []
    with launched(database_url):
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=_calling(calls, gate, is_async))
        with SetWorkflowID("lost"):
            flow.start()
        assert gate.is_told.wait(60)
        DBOS.cancel_workflow("lost")
        with pytest.raises(Exception, match="cancelled"):
            DBOS.retrieve_workflow("lost").get_result()
    assert calls == []


def _calling(calls: list[str], gate: LostAtOnce, is_async: bool) -> Callable[[], Flow[Any]]:
    class Sync(Flow[dict[str, Any]]):
        @start()
        def one(self) -> None:
            gate.once_more()
            step(calls.append, "made")

    class Async(Flow[dict[str, Any]]):
        @start()
        async def one(self) -> None:
            gate.once_more()
            await step(made)

    async def made() -> None:
        calls.append("made")

    return Async if is_async else Sync
