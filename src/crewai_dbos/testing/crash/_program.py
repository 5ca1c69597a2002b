"""What the processes of a crash test do: begin the run, or only restart and wait for its end."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID

from crewai_dbos import _import_path
from crewai_dbos._dbos_seam.database import ALIVE, launched_database
from crewai_dbos._dbos_seam.instance import is_constructed, poll_internal_queue
from crewai_dbos._runs.handle import RunHandle
from crewai_dbos._stored import codec, names
from crewai_dbos.testing.crash import _faults
from crewai_dbos.testing.crash.errors import CrashTestError

RUN = "crash-test"
"""The workflow id of the run."""

POLL = 0.05
"""Seconds between two looks of DBOS for a run to recover: the program has nothing else to do."""

_ENDED = ("SUCCESS", "ERROR", "CANCELLED")


def start(order: Mapping[str, Any]) -> Any:
    """Begin the run, perhaps to be killed in it."""
    try:
        ended = _started(order)
        return {"unusable": _faults.refused()} if _faults.refused() else ended
    except (_import_path.NotFoundError, CrashTestError) as error:
        return {"unusable": str(error)}


def _started(order: Mapping[str, Any]) -> Any:
    target = _launched(order)
    try:
        with SetWorkflowID(RUN):
            answer = _begun(target, dict(order["inputs"]), order["asynchronous"])
    except Exception as error:
        return _ended(order, target, error=error)
    ended = _ended(order, target, answer)
    if ended["status"] not in _ENDED:
        raise CrashTestError(
            f"{order['target']} has to start one run, under the workflow id that is set when it is "
            f"called, and wait for it. When it returned, that run was {ended['status']}, so there "
            "is nothing to kill."
        )
    if hasattr(target, "retrieve"):
        return ended
    # A function may return something else than its run, and only that is there after a restart.
    return {**ended, "answer": _plain(_retrieved(target).get_result())}


def recover(order: Mapping[str, Any]) -> Any:
    """What a restarted program does: import, launch, and be told how the run ended."""
    target = _launched(order)
    _wait_for_its_end()
    try:
        answer = _retrieved(target).get_result()
    except Exception as error:
        return _ended(order, target, error=error)
    return _ended(order, target, answer)


def _wait_for_its_end() -> None:
    """As `get_result` would, which looks every second, at ten times the cost of a look."""
    database = launched_database()
    look = sa.select(database.runs.c.status).where(database.runs.c.workflow_uuid == RUN)
    with database.engine.connect() as connection:
        while connection.execute(look).scalar() in ALIVE:
            connection.rollback()
            time.sleep(POLL)


def _retrieved(target: Any) -> Any:
    """The handle of the run: of a definition, of what a function has started."""
    if hasattr(target, "retrieve"):
        return target.retrieve(RUN)
    handle: Any = DBOS.retrieve_workflow(RUN)
    return RunHandle(RUN) if handle.get_status().name in names.WORKFLOWS else handle


def _launched(order: Mapping[str, Any]) -> Any:
    paths = (order["target"], order["setup"], order["left_behind"])
    target, setup, _ = (path and _import_path.load(path) for path in paths)
    if setup is not None:
        setup()
    if is_constructed():
        raise CrashTestError(
            f"{' or '.join(filter(None, paths[:2]))} constructs DBOS, with a database of its own. "
            "Put that under `if __name__ == '__main__':`, or into a module that is not imported."
        )
    _faults.install(RUN, **order["fault"])
    dbos = DBOS(
        config={
            "name": "crash-test",
            "system_database_url": order["database_url"],
            "log_level": "WARNING",  # the report shows the last lines of a run that failed
        }
    )
    poll_internal_queue(dbos, POLL)
    DBOS.launch()
    return target


def _begun(target: Any, inputs: dict[str, Any], asynchronous: bool) -> Any:
    from crewai import Agent, Crew, Task
    from crewai.flow.flow import Flow

    if isinstance(target, (Crew, Flow)):
        kickoff = target.akickoff if asynchronous else target.kickoff
        try:
            inspect.signature(kickoff).bind(**inputs)
        except TypeError as error:
            meant = f" Perhaps you mean: {json.dumps({'inputs': inputs})}"
            raise CrashTestError(
                f"These are not the arguments of its kickoff: {error}."
                f"{'' if 'inputs' in inputs else meant}"
            ) from None
        return _finished(kickoff(**inputs))
    if isinstance(target, Agent):
        if "description" in inputs:
            task = Task(**inputs)
            return _finished(
                target.aexecute_task(task) if asynchronous else target.execute_task(task)
            )
        return _finished((target.akickoff if asynchronous else target.kickoff)(**inputs))
    return _finished(target(**inputs))


def _finished(answer: Any) -> Any:
    if not inspect.isawaitable(answer):
        return answer

    async def wait() -> Any:
        return await answer

    return asyncio.run(wait())


def _ended(
    order: Mapping[str, Any], target: Any, answer: Any = None, error: Exception | None = None
) -> dict[str, Any]:
    """How the run ended, as JSON data."""
    status = DBOS.get_workflow_status(RUN)
    found = status.status if status is not None else "never started"
    note = ((status.attributes if status else None) or {}).get(names.ATTRIBUTE, {})
    ended: dict[str, Any] = {"status": found, "stopped": note.get("stopped", "")}
    if order["left_behind"]:
        try:
            ended["left behind"] = _left_behind(order["left_behind"])
        except Exception as why:
            if error is None:
                raise
            # What a run that failed has left may be no whole thing: why it failed tells more.
            ended["left behind"] = f"{type(why).__name__}: {why}"
    if (state := _state(target, order["inputs"])) is not None:
        ended["state"] = state
    if error is not None:
        return {**ended, "error": f"{type(error).__name__}: {error}"}
    return {**ended, "answer": _plain(answer)}


def _left_behind(path: str) -> Any:
    left = _import_path.load(path)()
    try:
        return json.loads(json.dumps(left))
    except (TypeError, ValueError) as why:
        raise CrashTestError(f"What {path} returns has to be JSON data: {why}") from None


def _state(target: Any, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that a flow ended with; None in a process in which its last method did not end."""
    kicked_off_with = inputs.get("inputs")  # or a function's own parameter of that name
    given = kicked_off_with.get("id", RUN) if isinstance(kicked_off_with, Mapping) else RUN
    if not hasattr(target, "flow_id") or target.flow_id != given:
        return None
    fields = target.state if isinstance(target.state, dict) else vars(target.state)
    return {name: _plain(value) for name, value in fields.items()}


# Of a crew, an agent, a task.
_READ = (
    ("raw", "pydantic", "json_dict", "token_usage", "tasks_output"),
    ("raw", "pydantic", "usage_metrics"),
    ("name", "raw", "pydantic", "json_dict", "agent", "tool_failures"),
)


def _plain(answer: Any) -> Any:
    """An answer as JSON data; of crewAI's outputs what a user reads of them."""
    for kind in _READ:
        if all(hasattr(answer, name) for name in kind):
            return {name: _plain(getattr(answer, name)) for name in kind}
    if isinstance(answer, list):
        return [_plain(item) for item in answer]
    try:
        return codec.encode(answer)
    except Exception:
        cls: Any = type(answer)
        if cls.__repr__ is not object.__repr__ or not hasattr(answer, "__dict__"):
            return re.sub(r" at 0x[0-9a-f]+", "", repr(answer))
        # Which tells nothing but an address.
        return {cls.__qualname__: {n: _plain(v) for n, v in vars(answer).items()}}
