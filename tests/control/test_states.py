"""How a run stands: every state, and the reason that goes with it."""

from __future__ import annotations

import pickle
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from crewai.flow.flow import Flow, start
from dbos import DBOS, SetWorkflowID, SetWorkflowTimeout

from control import reading_runs
from control.reading_runs import ROW, crew_of, every
from crewai_dbos import DBOSCrew, DBOSFlow, People, ask
from crewai_dbos._control.states import standing
from crewai_dbos._control.texts import of_run
from crewai_dbos._control.workers import Fleet
from crewai_dbos._dbos_seam.stored_contents import StoredError
from crewai_dbos._fleet.listing import Listed
from crewai_dbos._requests.reading import Outline
from crewai_dbos._stored.names import QUEUES, RUN_ATTRIBUTE
from crewai_dbos.control import Control, Reply
from crewai_dbos.errors import RunCancelledError, SealedError
from crewai_dbos.testing import hang, text
from people.conftest import until
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

serve = reading_runs.serve


def asked(state: Any, audience: str | None = None) -> Outline:
    return Outline("0123456789abcdef", "ask#1", "question", state, audience, 0)


UNSEEN = "is no worker, so whether it lives is not known"


def sealed(_: Any) -> Any:
    raise SealedError("no key")


def noted(**note: Any) -> dict[str, Any]:
    return {"crewai_dbos": note, "customer": "acme"}


@pytest.mark.parametrize(
    ("row", "asks", "state", "reason"),
    [
        ({"status": "SUCCESS"}, [], "done", None),
        ({"status": "ERROR"}, [], "failed", None),
        ({}, [], "running", UNSEEN),
        ({}, [asked("used")], "running", UNSEEN),
        ({}, [asked("open", "support")], "waiting", "for support since"),
        ({"status": "DELAYED"}, [asked("open"), asked("open")], "waiting", "and 1 more"),
        ({"status": "DELAYED"}, [asked("expired")], "waking", None),
        ({"status": "DELAYED", "delay_ms": 1000}, [], "queued", "begins at 1970-01-01 00:00:01"),
        ({"status": "ENQUEUED"}, [], "queued", "no live worker has its workflow"),
        ({"status": "ENQUEUED"}, [asked("used")], "queued", "no live worker has "),
        ({"status": "ENQUEUED"}, [asked("answered")], "waking", None),
        ({"status": "ENQUEUED", "version": None}, [], "queued", "no live worker has "),
        ({"status": "ENQUEUED", "version": "v0"}, [], "stranded", "version v0, and v1 is the newe"),
        ({"version": "v0"}, [asked("open")], "stranded", "crewai-dbos runs move r --version v1"),
        ({"status": "DELAYED", "version": "v0"}, [asked("open")], "waiting", "for anybody"),
        ({"version": "v0", "application": "other"}, [], "running", UNSEEN),
        ({"attributes": noted(waiting="import it")}, [], "stranded", "import it"),
        ({"status": "CANCELLED"}, [], "cancelled", "does not say by whom"),
        (
            {"status": "CANCELLED", "deadline_ms": 5000, "ended_ms": 5001},
            [],
            "cancelled",
            "its time was up at 1970-01-01 00:00:05 UTC",
        ),
        (
            {
                "status": "CANCELLED",
                "attributes": noted(cancelled={"by": "ann", "reason": "too dear"}),
            },
            [],
            "cancelled",
            "by ann: too dear",
        ),
        (
            {"status": "CANCELLED", "attributes": noted(cancelled={"by": "ann", "reason": None})},
            [],
            "cancelled",
            "by ann",
        ),
        (
            {"status": "CANCELLED", "attributes": noted(stopped="put it back", error="DriftError")},
            [],
            "stopped",
            "put it back",
        ),
        ({"status": "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "attempts": 101}, [], "stopped", "after 101"),
        ({"attributes": {"crewai_dbos": "of the user's"}}, [], "running", UNSEEN),
    ],
)
def test_every_state(row: dict[str, Any], asks: Any, state: str, reason: str | None) -> None:
    found = standing(replace(ROW, **row), asks, {"app": "v1"}, lambda stored: stored)
    assert found.state == state
    assert (found.reason is None) if reason is None else (reason in str(found.reason))


def worker(
    executor: str = "w1", *, age: int | None = 0, version: str = "v1", has: str = "late"
) -> Listed:
    definitions = {"flow": (has,)}
    return Listed(executor, "host:7", "app", version, definitions, 30_000, 0, age, {})


NO_QUEUE = replace(worker(), also={QUEUES: ("_dbos_internal_queue",)})
"""As an application that only begins runs, with `DBOS.listen_queues([])`."""

LATE = {"name": "crewai_dbos.flow", "attributes": {RUN_ATTRIBUTE: {"definition": "late"}}}
MINE = {"name": "mine", "attributes": {}}
UNDER = {**LATE, "executor": "w1"}
GONE = worker(age=30_001)


@pytest.mark.parametrize(
    ("row", "workers", "state", "reason"),
    [
        (UNDER, [worker(age=29_000)], "running", None),
        (UNDER, [worker(age=29_000), worker("w2", has="x")], "running", None),
        ({**UNDER, "executor": "w3"}, [GONE, worker("w2")], "running", UNSEEN),
        ({**UNDER, "application": "other"}, [GONE], "running", UNSEEN),
        (
            {**UNDER, "application": None},
            [GONE, worker("w2")],
            "interrupted",
            "w1 (host:7) is",
        ),
        (UNDER, [GONE, worker("w2")], "interrupted", "another goes on"),
        (UNDER, [GONE, NO_QUEUE], "interrupted", "another goes on"),
        ({**UNDER, "queue": "q"}, [GONE, NO_QUEUE], "stranded", "no other worker of version v1"),
        ({**LATE, "status": "ENQUEUED", "queue": "q"}, [NO_QUEUE], "queued", "the queue 'q'"),
        (
            {**LATE, "status": "ENQUEUED", "queue": "q", "version": "v0"},
            [replace(NO_QUEUE, version="v0")],
            "stranded",
            "only a process of v0",
        ),
        (UNDER, [worker(age=None), worker("w2")], "interrupted", "another goes on"),
        (UNDER, [worker("w1", version="v2"), GONE], "stranded", "no other worker of version v1"),
        (UNDER, [GONE, worker("w2", age=None)], "stranded", "no other worker of version v1 lives"),
        (UNDER, [GONE, worker("w2", version="v2")], "stranded", "no other worker of version v1"),
        (UNDER, [GONE, worker("w2", has="x")], "stranded", "of version v1 that lives has the flow"),
        ({**UNDER, **MINE}, [GONE, worker("w2", has="x")], "interrupted", "another goes on"),
        ({**UNDER, "version": "v0"}, [worker(version="v0")], "running", None),
        (
            {**UNDER, "version": "v0"},
            [worker(version="v0", age=40_000), worker("w2")],
            "stranded",
            "no other worker of version v0 lives. Start one, or move the run:",
        ),
        (
            {**LATE, "status": "ENQUEUED"},
            [],
            "queued",
            "no live worker has the flow 'late'. Start one (crewai-dbos worker",
        ),
        ({**LATE, "status": "ENQUEUED"}, [GONE], "queued", "crewai-dbos worker MODULE"),
        ({**LATE, "status": "ENQUEUED", "version": None}, [worker()], "queued", None),
        ({**LATE, "status": "ENQUEUED"}, [worker(), worker("w2", has="x")], "queued", None),
        (
            {**LATE, "status": "ENQUEUED"},
            [GONE, worker("w2", has="x")],
            "stranded",
            "no worker of version v1 that lives has the flow 'late'. Start one, with the module",
        ),
        (
            {**LATE, "status": "ENQUEUED", "version": None},
            [worker("w2", has="x")],
            "stranded",
            "no worker that lives has the flow 'late'",
        ),
        ({**LATE, "status": "ENQUEUED", "version": "v0"}, [worker(version="v0")], "queued", None),
        ({**LATE, "status": "ENQUEUED", "version": "v0"}, [worker()], "stranded", "move the run"),
        ({**LATE, "status": "DELAYED"}, [worker("w2", has="x")], "queued", None),
        ({**LATE, "status": "SUCCESS", "executor": "w1"}, [GONE], "done", None),
    ],
)
def test_what_leases_say(row: dict[str, Any], workers: Any, state: str, reason: str | None) -> None:
    found = standing(replace(ROW, **row), [], {"app": "v1"}, lambda s: s, Fleet(workers))
    assert found.state == state
    assert (found.reason is None) if reason is None else (reason in str(found.reason))


def test_a_run_that_waits_for_a_person_under_a_worker_that_is_gone() -> None:
    row = replace(ROW, **UNDER)
    here, nobody = Fleet([GONE, worker("w2")]), Fleet([GONE])
    assert standing(row, [asked("open")], {}, lambda s: s, here).state == "waiting"
    assert standing(row, [asked("open")], {}, lambda s: s, nobody).state == "stranded"


@pytest.mark.parametrize("note", ["stopped", "cancelled"])
def test_a_reason_that_can_not_be_read(note: str) -> None:
    row = replace(ROW, status="CANCELLED", attributes=noted(**{note: {}}, error="DriftError"))
    found = standing(row, [], {}, sealed)
    assert found.state == note
    assert "encrypted" in str(found.reason)


class Boom(Exception):
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it was run')",)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (ValueError("no paper"), "ValueError: no paper"),
        (ValueError(), "ValueError"),
        (KeyError(1, "a"), "KeyError"),
        (Boom(), "exec: raise SystemExit('it was run')"),
    ],
)
def test_a_pickled_error_is_read_and_not_run(made: Exception, expected: str) -> None:
    stored = StoredError(b64encode(pickle.dumps(made)).decode(), "py_pickle")
    assert of_run(stored, sealed) == expected


@pytest.mark.parametrize("text", ["", "???", "gASV", "[1]", '{"name": 3}'])
@pytest.mark.parametrize("serializer", ["py_pickle", "portable_json", "own"])
def test_an_error_that_is_none(text: str, serializer: str) -> None:
    assert of_run(StoredError(text, serializer), sealed)


@DBOS.workflow(name="states.broken")
def broken() -> None:
    raise ValueError("of the user's own")


def test_a_workflow_of_the_users_own_that_failed(control: Control) -> None:
    run_id = unique("broken")
    with SetWorkflowID(run_id), pytest.raises(ValueError, match="own"):
        broken()
    found = control.run(run_id)
    assert (found.state, found.error) == ("failed", "ValueError: of the user's own")


class Asks(Flow):
    @start()
    def only(self) -> str:
        return str(ask("Well?", audience="support"))


@BOTH
def test_a_run_that_waits_for_a_person(control: Control, url: str) -> None:
    flow = DBOSFlow(flow_name=unique("asks"), orig_flow=Asks, people=People(linger=0.05))
    run = flow.start()
    until(lambda: control.status_of(run.workflow_id) == "DELAYED")
    (found,) = control.runs(definition=flow.flow_name, state="waiting")
    assert "for support since" in str(found.reason)
    shown = control.run(run.workflow_id)
    assert [(node.kind, node.state) for node in every(shown.children)] == [
        ("method", "waiting"),
        ("person", "waiting"),
    ]
    assert shown.seconds is not None
    (request,) = control.requests(run_id=run.workflow_id)
    assert shown.children[0].children[0].path == request.path
    assert request.request_id[:8] in str(found.reason)
    control.answer(request.request_id, Reply("yes"), by="ann")
    run.get_result()
    assert not control.runs(definition=flow.flow_name, state="waiting")
    assert {node.state for node in every(control.run(run.workflow_id).children)} == {"done"}


@DBOS.workflow(name="states.own")
def own() -> str:
    return str(ask("Well?"))


@BOTH
def test_a_run_of_another_version(control: Control, sql: Callable[..., Any]) -> None:
    """A workflow that waits in memory keeps its version; so does any run that is at work."""
    run_id = unique("old")
    with SetWorkflowID(run_id):
        handle = DBOS.start_workflow(own)
    until(lambda: control.requests(run_id=run_id))
    assert control.run(run_id).state == "waiting"
    assert run_id not in [run.run_id for run in control.stranded()]
    version = DBOS.application_version
    sql("UPDATE {ws} SET application_version = 'v0' WHERE workflow_uuid = :run", run=run_id)
    (found,) = [run for run in control.stranded() if run.run_id == run_id]
    assert f"it is of application version v0, and {version} is the newest" in str(found.reason)
    sql(
        "UPDATE {ws} SET application_version = :v WHERE workflow_uuid = :run", run=run_id, v=version
    )
    (request,) = control.requests(run_id=run_id)
    control.answer(request.request_id, Reply("yes"), by="ann")
    assert handle.get_result() == "yes"


def test_cancelled_and_out_of_time(serve: Serve, control: Control) -> None:
    held = hang(text("late"))
    serve(lambda _: held)
    durable = DBOSCrew(crew_name=unique("slow"), orig_crew=crew_of("work"))
    run_id = unique("late")
    with SetWorkflowID(run_id), SetWorkflowTimeout(0.3):
        handle = durable.start()
    until(lambda: control.run(run_id).state == "cancelled")
    held.release()
    with pytest.raises(RunCancelledError):
        handle.get_result()
    found = control.run(run_id)
    assert "its time was up" in str(found.reason)
