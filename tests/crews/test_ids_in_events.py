"""The ids that events tell of a task are its run's own, and the same on recovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from crewai import Crew
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallStartedEvent
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent, DBOSCrew
from crewai_dbos.errors import RunCancelledError
from crewai_dbos.testing import Reply, Request, text
from crews.scenarios import agent, task
from support.names import unique
from support.serving import Serve


def test_of_an_agent_and_of_a_crew(serve: Serve) -> None:
    clerk = DBOSAgent(agent_name=unique("clerk"), orig_agent=agent("Clerk"))
    single, both = agent("Clerk"), unique("office")
    office = DBOSCrew(crew_name=both, orig_crew=Crew(agents=[single], tasks=[task("Do", single)]))
    for begin, run_id in (
        (lambda: clerk.execute_task(task("Do", None)), clerk.agent_name),
        (office.kickoff, both),
    ):
        assert len(told_ids(serve, begin, run_id)) == 1, run_id


def told_ids(serve: Serve, begin: Callable[[], Any], run_id: str) -> set[str]:
    """What handlers are told that the id of the task is, before the run is cancelled and after."""
    seen: set[str] = set()
    asked: list[Request] = []

    def cancelled_once(request: Request) -> Reply:
        asked.append(request)
        if len(asked) == 1:
            DBOS.cancel_workflow(run_id)
        return text("Done.")

    serve(cancelled_once)
    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.on(LLMCallStartedEvent)(lambda _, event: seen.add(str(event.task_id)))
        with SetWorkflowID(run_id), pytest.raises(RunCancelledError):
            begin()
        DBOS.resume_workflow(run_id).get_result()
    assert len(asked) == 2
    return seen
