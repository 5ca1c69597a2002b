"""What the processes of test_recovery.py do, beside `application`'s `start` and `recover`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from crewai import Task
from dbos import DBOS, SetWorkflowID
from dbos._sys_db import SystemDatabase

from crash.application import AGENTS, answer_of, build, launch, plain, start, undecorated
from crash.names import ASK, RUN
from crewai_dbos import DBOSAgent, StepConfig
from crewai_dbos.testing.crash import _faults
from crewai_dbos.testing.crash._inside import say

Order = dict[str, Any]


def ask(agent: DBOSAgent, text: str = ASK, run_id: str = RUN) -> Any:
    with SetWorkflowID(run_id):
        return plain(agent.execute_task(Task(description=text, expected_output="The receipts.")))


def run_together(*works: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        results[number] = works[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def status() -> Any:
    found = DBOS.get_workflow_status(RUN)
    assert found is not None
    return found


def outcome(work: Callable[[], Any]) -> dict[str, Any]:
    """What `work` returned or raised."""
    try:
        return {"answer": work()}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def unbuilt(_: Order) -> list[str]:
    """The classes of a first answer of a model that pydantic has yet to build."""
    from crewai.events.types import agent_events
    from openai.types import chat

    events = [each for each in vars(agent_events).values() if isinstance(each, type)]
    classes = [chat.ChatCompletion, chat.ChatCompletionChunk, *events]
    return [each.__name__ for each in classes if not getattr(each, "__pydantic_complete__", True)]


def wait_for(condition: Callable[[], Any]) -> Any:
    while not (found := condition()):
        time.sleep(0.02)
    return found


# Definitions ------------------------------------------------------------------


def start_late(order: Order) -> Any:
    launch(order)
    return ask(build("late"))


def only_launch(order: Order) -> Any:
    """The whole program of a user who restarts: import (above), launch, and go on living."""
    launch(order)
    unfinished = ("PENDING", "ENQUEUED")
    return wait_for(lambda: (found := status().status) not in unfinished and found)


def start_with_an_undecorated_tool(order: Order) -> Any:
    """Begin a run whose tool is no DBOS step: its row comes after what it does."""
    launch(order)
    return ask(DBOSAgent(agent_name="plain", orig_agent=undecorated, tool_step_config=StepConfig()))


def define_after_half_a_second(order: Order) -> Any:
    launch(order)
    time.sleep(0.5)
    return answer_of(build("late"))


def launch_without_definition(order: Order) -> Any:
    """Launch, tell of the run that waits, and define its agent when told so by `order`."""
    launch(order)
    wait_for(lambda: (status().attributes or {}).get("crewai_dbos"))
    found = status()
    say(status=found.status, note=found.attributes["crewai_dbos"])
    if not order["define"]:
        threading.Event().wait()  # to be killed
    answer = answer_of(build("late"))
    return {"answer": answer, "attributes": status().attributes}


def version(order: Order) -> str:
    for name in order["names"]:
        build(name)
    launch(order)
    return DBOS.application_version


# Several at once --------------------------------------------------------------


def start_two(order: Order) -> Any:
    launch(order)
    agent = AGENTS["native"]
    works = [lambda who=who: ask(agent, f"Write to {who}.", who) for who in ("Ann", "Bob")]
    return run_together(*works)


def recover_two(order: Order) -> Any:
    launch(order)
    return [answer_of(AGENTS["native"], run_id) for run_id in ("Ann", "Bob")]


def recover_and_ask(order: Order) -> Any:
    """Ask for the run, twice, while DBOS recovers it."""
    launch(order)
    agent = AGENTS["native"]
    return run_together(lambda: ask(agent), lambda: ask(agent), lambda: answer_of(agent))


def ask_as_another_executor(order: Order) -> Any:
    """Ask for a run that another process is at work on; say when all that is left is to wait."""
    launch(order)
    look = SystemDatabase.check_workflow_result

    def told(*args: Any, **options: Any) -> Any:
        say(waits=True)
        return look(*args, **options)

    SystemDatabase.check_workflow_result = told  # type: ignore[method-assign]
    return ask(AGENTS["native"])


def ask_others(order: Order) -> Any:
    """Take an id that belongs to a run of `native`."""
    launch(order)
    native, react = AGENTS["native"], AGENTS["react"]

    async def asynchronously() -> Any:
        with SetWorkflowID(RUN):
            return plain(await react.akickoff(ASK))

    return {
        "another agent": outcome(lambda: ask(react)),
        "another agent, async": outcome(lambda: asyncio.run(asynchronously())),
        "another task": outcome(lambda: ask(native, "Send a letter to Eve.")),
        "the same": outcome(lambda: ask(native)),
    }


# Damage -----------------------------------------------------------------------


def recover_damaged(order: Order) -> Any:
    """Recover a run with an entry that can't be read, then fork it from there."""
    launch(order)
    agent = AGENTS["native"]
    found = outcome(lambda: answer_of(agent))
    before = status()
    fork = DBOS.fork_workflow(RUN, order["step"]).get_workflow_id()
    return {
        **found,
        "status": before.status,
        "note": before.attributes["crewai_dbos"],
        "fork": answer_of(agent, fork),
        "asked again": outcome(lambda: ask(agent)),
    }


def start_and_tell_of_writes(order: Order) -> Any:
    """Say for each entry when it is about to be written."""
    _faults.watchers.append(lambda entry, moment: say(**{f"{entry} {moment}": True}))
    return start(order)


def start_and_fail(order: Order) -> Any:
    """A run that succeeds and one that the model server refuses."""
    launch(order)
    return [ask(AGENTS["native"]), outcome(lambda: ask(AGENTS["native"], "Fail.", "failed"))]
