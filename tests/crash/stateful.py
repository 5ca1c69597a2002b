"""A flow that returns the same after a crash and ends with another state."""

from __future__ import annotations

import datetime
import os
import uuid
from typing import Any

from crewai.flow.flow import Flow, start
from dbos import DBOS

from crewai_dbos import DBOSFlow
from crewai_dbos.testing import EffectLog, report_effect
from crewai_dbos.testing.crash._program import RUN
from crewai_dbos.testing.effects import EFFECTS


class Stateful(Flow[dict[str, Any]]):
    @start()
    def note(self) -> str:
        report_effect("noted")
        self.state["times"] = EffectLog(os.environ[EFFECTS]).count("noted")
        self.state["key"] = str(uuid.uuid4())
        self.state["at"] = datetime.datetime.now()
        return "noted"


class Varying(Flow[dict[str, Any]]):
    @start()
    def note(self) -> str:
        report_effect("noted")
        self.state["process"] = "long before " * 20 + f"{os.getpid()}" + " long after" * 20
        return "noted"


class Unsteady(Flow[dict[str, Any]]):
    """Has another state in each process, and fails when it is begun for the fourth time, or so."""

    @start()
    def note(self) -> str:
        with open(self.state["begun"], "a+") as file:
            file.write("*")
            file.seek(0)
            if len(file.read()) == self.state.get("fails", 4):
                raise OSError("no room left")
        self.state["process"] = os.getpid()
        report_effect("noted")
        return "noted"


def left_by_what_has_not_failed() -> str:
    status = DBOS.get_workflow_status(RUN)
    if status is not None and status.status == "ERROR":
        raise FileNotFoundError("no letters")
    return "letters"


flow = DBOSFlow(flow_name="stateful", orig_flow=Stateful)
varying = DBOSFlow(flow_name="varying", orig_flow=Varying)
unsteady = DBOSFlow(flow_name="unsteady", orig_flow=Unsteady)
