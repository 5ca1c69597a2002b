"""What the processes of crash tests run whose events are looked at, and those events."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, start
from crewai.tools import tool
from dbos import SetWorkflowID

from crewai_dbos import DBOSCrew, DBOSFlow, People
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._events.reading import at_work, events
from crewai_dbos._events.store import Store
from crewai_dbos._stored import sealing
from crewai_dbos.testing import report_effect
from crewai_dbos.testing.crash._program import RUN
from support.launching import launched

BY_EXECUTION = ("run.resumed", "run.parked", "run.ended")
"""Types of events of which there are as many as there were executions."""


@tool("look_up")
def look_up(what: str) -> str:
    """Look up."""
    report_effect("look_up", what=what)
    if what == "nothing":
        raise LookupError(what)
    if os.environ.get("DIES") and "write" in what:
        store = Store(launched_database())
        while not any(event.type == "tool.started" for event in at_work(store, lambda x: x, RUN)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{what} are nice"


def clerk(**options: Any) -> Agent:
    return Agent(role="Clerk", goal="Find", backstory="Old.", tools=[look_up], **options)


def build() -> Crew:
    agent = clerk(llm=LLM(model="gpt-4o-mini", stream=True))
    beside = Task(
        description="Look beside.", expected_output="A line.", agent=agent, async_execution=True
    )
    write = Task(description="Look and write.", expected_output="A line.", agent=agent)
    return Crew(agents=[agent], tasks=[beside, write])


class Letters(Flow[dict[str, Any]]):
    """Two methods side by side, and one that has an agent work after them."""

    @start()
    def left(self) -> str:
        return str(clerk(llm="gpt-4o-mini").kickoff("Look left.").raw)

    @start()
    async def right(self) -> str:
        return str((await clerk(llm="gpt-4o-mini").kickoff_async("Look right.")).raw)

    @listen(and_(left, right))
    def finish(self) -> str:
        found = str(look_up.run(what="ends"))
        try:
            look_up.run(what="nothing")
        except LookupError:
            return found
        return "?"


_DEFINITIONS: dict[str, Callable[[str], Any]] = {
    "crew": lambda name: DBOSCrew(crew_name=name, orig_crew=build, events="tokens"),
    "letters": lambda name: DBOSFlow(flow_name=name, orig_flow=Letters, events=True),
    "dying": lambda name: DBOSCrew(crew_name=name, orig_crew=build, events="tokens"),
    "approved": lambda name: DBOSCrew(
        crew_name=name,
        orig_crew=build,
        events=True,
        people=People(approve_tools=["look_up"], linger=0.05),
    ),
}


def definition(name: str) -> Any:
    """A definition: building a flow starts threads, and a process with threads must not fork."""
    if name not in globals():
        globals()[name] = _DEFINITIONS[name](name)
    return globals()[name]


def __getattr__(name: str) -> Any:
    if name not in _DEFINITIONS:
        raise AttributeError(name)
    return definition(name)


def carry_out(url: str, dies: str) -> None:
    """A process that carries out the run, or goes on with it; the first dies in a tool call."""
    os.environ["DIES"] = dies
    crew = definition("dying")
    with launched(url):
        if dies:
            with SetWorkflowID(RUN):
                crew.kickoff()
        crew.retrieve(RUN).get_result()


def told() -> dict[str, Any]:
    """What a reader has seen of the run."""
    found = list(events(Store(launched_database()), sealing.opened, RUN, follow=True))
    once = [e for e in found if e.type not in BY_EXECUTION and e.type != "llm.tokens"]
    times = Counter((event.type, event.path) for event in once)
    begun: set[str] = set()
    wrong = [key for key, count in times.items() if count > 1]
    for event in once:
        if event.type.endswith((".started", ".opened")):
            begun.add(event.path)
        elif event.path not in begun and event.path:
            wrong.append((event.type, event.path))
    numbers = [event.seq for event in found]
    answers: dict[str, dict[int, str]] = {}
    for event in found:
        if event.type == "llm.tokens":
            attempts = answers.setdefault(event.path, {})
            attempt = event.data["attempt"]
            attempts[attempt] = attempts.get(attempt, "") + event.data["text"]
    return {
        "events": sorted(times),
        "wrong": wrong,
        "in order": numbers == sorted(set(numbers)),
        "ended": sorted(
            {
                (event.path, event.data["status"], event.data.get("error") or "")
                for event in found
                if event.type.endswith(".ended")
            }
        ),
        "answers": {path: attempts[max(attempts)] for path, attempts in sorted(answers.items())},
        "last": found[-1].type if found else None,
    }
