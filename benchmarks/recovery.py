"""From the start of a fresh process to the first new LLM call of a run that was killed."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path

from benchmarks import model
from benchmarks.harness import Row, Worker, compared, saying
from crewai_dbos.testing import Hang, Message, ModelServer, Request, hang

NAME = "recovery"
TOOL_CALLS = 20
TOTAL = "the whole way"
STARTED_AGAIN = "until DBOS starts the run again"
PHASES = (
    "import crewai and crewai_dbos",
    "define the agent, DBOS.launch()",
    STARTED_AGAIN,
    "replay of the recorded calls",
)
GOAL = 0.3
"""Seconds that may pass beside imports and the replay."""


def measure(quick: bool, folder: Path) -> list[Row]:
    rounds, tool_calls = (1, 3) if quick else (5, TOOL_CALLS)
    samples: dict[str, list[float]] = {name: [] for name in (TOTAL, *PHASES)}
    for number in range(rounds):
        home = folder / str(number)
        home.mkdir()
        moments = _recovered(home, tool_calls)
        samples[TOTAL].append(moments[-1] - moments[0])
        for phase, before, after in zip(PHASES, moments, moments[1:], strict=False):
            samples[phase].append(after - before)
    case = f"start to first new call, after {2 * tool_calls} calls"
    beside = statistics.median(samples[STARTED_AGAIN])
    notes = {STARTED_AGAIN: f"goal: {GOAL} s, {'met' if beside <= GOAL else 'not met'}"}
    return compared(NAME, case, "s", samples, notes=notes)


def _recovered(home: Path, tool_calls: int) -> list[float]:
    """Have a run, kill it at its last request, and start again.

    Returns:
        The moments between the phases, first the start of the new process.
    """
    held = hang()
    came: list[float] = []
    came_again = threading.Event()

    def script(request: Request) -> Message | Hang:
        if request.assistant_turns < tool_calls:
            return model.script(request)
        came.append(time.monotonic())
        if len(came) == 1:
            return held
        came_again.set()
        return model.script(request)

    with ModelServer(script) as server:
        with Worker("benchmarks.recovery", str(tool_calls), home=home, env=server.env) as first:
            first.read()
            held.wait_until_held(timeout=120)
        before = len(server.requests)
        started = time.monotonic()
        with Worker("benchmarks.recovery", "0", home=home, env=server.env) as second:
            moments = second.read() + second.read()
            if not came_again.wait(120):
                raise RuntimeError("the run did not go on")
        if len(server.requests) != before + 1:
            raise AssertionError("a recorded call was made again")
    return [started, *moments, came[1]]


# The worker ------------------------------------------------------------------------------


def _serve(tool_calls: int) -> None:
    say = saying()
    from crewai import Task
    from crewai.events import AgentExecutionStartedEvent, crewai_event_bus
    from dbos import SetWorkflowID

    from benchmarks.databases import launched
    from benchmarks.people import clerk
    from crewai_dbos import DBOSAgent, StepConfig

    imported = time.monotonic()
    durable = DBOSAgent(agent_name="clerk", orig_agent=clerk(), tool_step_config=StepConfig())

    @crewai_event_bus.on(AgentExecutionStartedEvent)
    def taken(source: object, event: AgentExecutionStartedEvent) -> None:
        say([time.monotonic()])

    with launched(f"sqlite:///{Path.cwd()}/run.sqlite"):
        say([imported, time.monotonic()])
        if tool_calls:
            task = Task(description=model.order(tool_calls), expected_output="A summary.")
            with SetWorkflowID("run"):
                durable.execute_task(task)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
