"""What the workers of these tests run: flows whose steps are told of, and may be held up."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from crewai.flow.flow import Flow, listen, start

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


three: Any = None
late: Any = None


def define(*, with_late: bool = True) -> None:
    """Make the definitions, which a process that forks must not."""
    global three, late
    three = DBOSFlow(flow_name="three", orig_flow=Three)
    if with_late:
        late = DBOSFlow(flow_name="late", orig_flow=Three)
