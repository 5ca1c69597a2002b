"""A program whose worker thread waits for a job before there has been any durable flow in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSFlow
from flows.workers import Worker
from support.launching import launched_in

service = Worker()
service.start()


class Asking(Flow):  # type: ignore[type-arg]
    @start()
    def ask(self) -> str:
        return service("A")


flow = DBOSFlow(flow_name="asking", orig_flow=Asking)

if __name__ == "__main__":
    with launched_in(Path(sys.argv[1])):
        with SetWorkflowID("A"):
            flow.kickoff()
        steps = DBOS.list_workflow_steps("A")
        fork = DBOS.fork_workflow("A", len(steps)).get_workflow_id()
        flow.retrieve(fork).get_result()
        print(json.dumps([step["function_name"] for step in steps]))
