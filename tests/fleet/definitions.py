"""What the workers of these tests run: flows whose steps are told of, and may be held up."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from crewai.flow.flow import Flow, and_, listen, start

from crewai_dbos import DBOSFlow, step
from crewai_dbos.testing import report_effect

HOLD = "FLEET_HOLD"
"""Names a file; while it is there, the second step of a run does not end."""


def work(run: str, number: int) -> int:
    report_effect("begun", run=run, step=number, pid=os.getpid())
    while number == 2 and Path(os.environ[HOLD]).exists():
        time.sleep(0.02)
    report_effect("ended", run=run, step=number, pid=os.getpid())
    return number


class Three(Flow[dict[str, Any]]):
    @start()
    def one(self) -> int:
        return step(work, self.state["run"], 1)

    @listen(one)
    def two(self, before: int) -> int:
        return before + step(work, self.state["run"], 2)

    @listen(two)
    def three(self, before: int) -> int:
        return before + step(work, self.state["run"], 3)


class Changed(Flow[dict[str, Any]]):
    """`Three` with another last step."""

    @start()
    def one(self) -> int:
        return step(work, self.state["run"], 1)

    @listen(one)
    def two(self, before: int) -> int:
        return before + step(work, self.state["run"], 2)

    @listen(two)
    def three(self, before: int) -> int:
        return 10 * (before + step(work, self.state["run"], 3))


class Restructured(Flow[dict[str, Any]]):
    """`Three` without its first step."""

    @start()
    def two(self) -> int:
        return step(work, self.state["run"], 2)

    @listen(two)
    def three(self, before: int) -> int:
        return before + step(work, self.state["run"], 3)


class Between(Flow[dict[str, Any]]):
    """Is held up after a call, and not in one."""

    @start()
    def one(self) -> int:
        return step(work, self.state["run"], 1)

    @listen(one)
    def two(self, before: int) -> int:
        report_effect("between", run=self.state["run"], step=0, pid=os.getpid())
        while Path(os.environ[HOLD]).exists():
            time.sleep(0.02)
        return before + step(work, self.state["run"], 2)


class Restless(Flow[dict[str, Any]]):
    """Two branches that take their time, beside each other, and what comes of both."""

    @start()
    def left(self) -> int:
        return sum(step(short, self.state["run"], "left", number) for number in range(4))

    @start()
    async def right(self) -> int:
        done = 0
        for number in range(4):
            done += await asyncio.to_thread(step, short, self.state["run"], "right", number)
        return done

    @listen(and_(left, right))
    def last(self) -> int:
        return step(short, self.state["run"], "last", 0)


def short(run: str, branch: str, number: int) -> int:
    report_effect("begun", run=run, branch=branch, step=number, pid=os.getpid())
    time.sleep(0.2)
    report_effect("ended", run=run, branch=branch, step=number, pid=os.getpid())
    return number


three: Any = None
late: Any = None
restless: Any = None
between: Any = None


def define(*, with_late: bool = True, three_is: str = "Three") -> None:
    """Make the definitions, which a process that forks must not."""
    global three, restless, between
    three = DBOSFlow(flow_name="three", orig_flow=globals()[three_is])
    restless = DBOSFlow(flow_name="restless", orig_flow=Restless)
    between = DBOSFlow(flow_name="between", orig_flow=Between)
    if with_late:
        define_late()


def define_late() -> None:
    global late
    late = DBOSFlow(flow_name="late", orig_flow=Three)
