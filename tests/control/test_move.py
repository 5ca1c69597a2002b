"""Runs that stand in every way, moved to another application version."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from crewai import Crew
from crewai.flow.flow import Flow, listen, start
from dbos import DBOS, SetWorkflowID
from typer.testing import CliRunner

from control import owned
from crewai_dbos import DBOSCrew, DBOSFlow, People, step
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._stored import names
from crewai_dbos.cli import app
from crewai_dbos.control import Approve, Control
from crewai_dbos.errors import DefinitionError, DriftError, RunNotFoundError, RunStateError
from crewai_dbos.testing import text
from pages.blocks import blocks
from people.conftest import Desk, status, until
from people.office import Post, office, writing
from support.controlling import crew_of, one_dbos, ordinary
from support.databases import SQLITE_HERE, both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

OLD, NOW = "1", "2"


@pytest.fixture(scope="module", params=SQLITE_HERE)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory, application_version=NOW) as url:
        register_the_old_version()
        yield url


def register_the_old_version() -> None:
    system = launched_database().system
    system.create_application_version(OLD)
    system.update_application_version_timestamp(OLD, 1)


def update(run_id: str, **values: Any) -> None:
    database = launched_database()
    with database.engine.begin() as connection:
        columns = database.runs.c
        connection.execute(
            sa.update(database.runs).where(columns.workflow_uuid == run_id).values(**values)
        )


def row(run_id: str) -> Any:
    database = launched_database()
    with database.engine.connect() as connection:
        query = sa.select(database.runs).where(database.runs.c.workflow_uuid == run_id)
        return connection.execute(query).one()


CALLS: list[str] = []
HOLD = threading.Event()


def call(run: str) -> str:
    CALLS.append(run)
    HOLD.wait(60)
    return run


class Two(Flow[dict[str, Any]]):
    @start()
    def one(self) -> str:
        return step(call, f"{self.state['run']}/1")

    @listen(one)
    def two(self, before: str) -> str:
        return step(call, f"{self.state['run']}/2")


@pytest.fixture(autouse=True)
def nothing_is_held() -> Iterator[None]:
    HOLD.set()
    yield
    HOLD.set()


def made() -> tuple[DBOSFlow, str]:
    return DBOSFlow(flow_name=unique("flow"), orig_flow=Two), unique("run")


def to_the_old_version(run_id: str, step_id: int) -> None:
    """Have a run that has ended be one of the old version, which has got so far."""
    launched_database().system.rewind_workflow(run_id, step_id, application_version=OLD)


def of_the_old_version(**values: Any) -> tuple[DBOSFlow, str]:
    """A run that the old version has begun: its last call is left to be made."""
    flow, run_id = made()
    with SetWorkflowID(run_id):
        flow.kickoff(inputs={"run": run_id})
    steps = DBOS.list_workflow_steps(run_id)
    last = min(each["function_id"] for each in steps if "method:two#1/" in each["function_name"])
    to_the_old_version(run_id, last)
    if values:
        update(run_id, **values)
    CALLS.clear()
    return flow, run_id


def goes_on(flow: DBOSFlow, run_id: str) -> None:
    assert flow.retrieve(run_id).get_result() == f"{run_id}/2"
    made = [each for each in CALLS if each.startswith(f"{run_id}/")]
    assert made == [f"{run_id}/2"], "what is recorded is not made again"
    assert row(run_id).application_version == NOW


@BOTH
def test_one_that_waits_in_its_queue(control: Control) -> None:
    flow, run_id = of_the_old_version()
    moves = control.move(run_id, version=NOW, by="ann")
    assert (moves.moved, moves.kept, moves.refused) == ((run_id,), {}, {})
    goes_on(flow, run_id)
    said = row(run_id).attributes[names.MOVED_ATTRIBUTE]
    assert (said["from"], said["to"], said["by"]) == (OLD, NOW, "ann")


@BOTH
def test_one_of_a_process_without_a_lease(control: Control) -> None:
    flow, run_id = of_the_old_version(
        status="PENDING", executor_id="pod-0", owner_xid="x", queue_name=None, recovery_attempts=99
    )
    with pytest.raises(RunStateError, match="'pod-0', which is no Worker"):
        control.move(run_id)
    assert row(run_id).owner_xid == "x", "nothing has changed"
    control.move(run_id, even_if_running=True)
    goes_on(flow, run_id)
    assert row(run_id).recovery_attempts == 1


def test_its_time_limit_goes_on(control: Control) -> None:
    deadline = 2**41
    flow, run_id = of_the_old_version(
        status="PENDING",
        executor_id="pod-0",
        owner_xid="x",
        workflow_timeout_ms=1000,
        workflow_deadline_epoch_ms=deadline,
    )
    control.move(run_id, even_if_running=True)
    goes_on(flow, run_id)
    assert row(run_id).workflow_deadline_epoch_ms == deadline


def test_one_that_lacks_its_definition_is_at_work_nowhere(control: Control) -> None:
    flow, run_id = of_the_old_version(
        status="PENDING",
        executor_id="pod-0",
        owner_xid="x",
        attributes={names.ATTRIBUTE: {"waiting": "no DBOSFlow"}, "own": 1},
    )
    assert control.run(run_id).state == "stranded"
    control.move(run_id)
    goes_on(flow, run_id)
    assert row(run_id).attributes["own"] == 1


@BOTH
def test_one_that_has_stopped_goes_on(control: Control) -> None:
    queue = unique("queue")
    DBOS.register_queue(queue, polling_interval_sec=0.05)
    note = {"stopped": "Another structure.", "error": "DriftError", names.QUEUE: queue}
    flow, run_id = of_the_old_version(
        status="CANCELLED", queue_name=None, attributes={names.ATTRIBUTE: note}, completed_at=1
    )
    control.move(run_id)
    goes_on(flow, run_id)
    assert row(run_id).queue_name == queue


def test_one_that_dbos_has_given_up_goes_on(control: Control) -> None:
    flow, run_id = of_the_old_version(status="MAX_RECOVERY_ATTEMPTS_EXCEEDED")
    control.move(run_id)
    goes_on(flow, run_id)


def test_one_that_was_cancelled_stays_so(control: Control) -> None:
    flow, run_id = of_the_old_version()
    control.cancel(run_id, by="ann", reason="Not now.")
    assert control.move(run_id).moved == (run_id,)
    assert (control.run(run_id).state, CALLS) == ("cancelled", [])
    assert "ann" in str(control.run(run_id).reason)
    control.resume(run_id)
    goes_on(flow, run_id)


def test_one_that_is_there_already(control: Control) -> None:
    HOLD.clear()
    flow, run_id = made()
    run = flow.start(inputs={"run": run_id})
    until(lambda: f"{run_id}/1" in CALLS)
    moves = control.move(run.workflow_id)
    assert (moves.moved, moves.refused) == ((), {})
    assert "already" in moves.kept[run.workflow_id]
    HOLD.set()
    assert run.get_result() == f"{run_id}/2"
    assert CALLS.count(f"{run_id}/1") == 1
    with pytest.raises(RunStateError, match="has ended"):
        control.move(run.workflow_id)
    with pytest.raises(RunNotFoundError):
        control.move("nobody's")


@BOTH
def test_a_parked_run_is_of_no_version(control: Control, serve: Serve) -> None:
    serve(writing({"to": "ann@example.org", "body": "Hello."}))
    post, desk = Post(), Desk(control)
    crew = office(post, People(approve_tools=["send_email"], linger=0.1))
    run = crew.start({"who": "Ann"})
    desk.parked(run.workflow_id)
    assert "of no version" in control.move(run.workflow_id).kept[run.workflow_id]
    update(run.workflow_id, application_version=OLD)  # as a process of an old version parks it
    assert control.move(run.workflow_id).moved == (run.workflow_id,)
    assert status(run.workflow_id) == "DELAYED"
    desk.answer(run.workflow_id, Approve())
    run.get_result()
    assert len(post.sent) == 1


def test_one_that_has_waited_and_does_not_fit_any_more(control: Control, serve: Serve) -> None:
    """Which version began it nobody knows, as it had none meanwhile."""
    serve(writing({"to": "ann@example.org", "body": "Hello."}))
    post, desk, count = Post(), Desk(control), [1]
    people = People(approve_tools=["send_email"], linger=0.1)
    crew = DBOSCrew(
        crew_name=unique("office"),
        orig_crew=lambda: ordinary(post.tools(), tasks=count[-1]),
        people=people,
    )
    run = crew.start({"topic": "otters"})
    desk.parked(run.workflow_id)
    count.append(2)
    desk.answer(run.workflow_id, Approve())
    with pytest.raises(DriftError, match=f"runs move {run.workflow_id} --version VERSION") as told:
        run.get_result()
    assert str(told.value).endswith("--at end")
    assert post.sent == []


@BOTH
def test_a_batch_goes_with_its_items(control: Control, serve: Serve) -> None:
    server = serve(lambda _: text("done"))
    crew, batch_id = crew_of(), unique("batch")
    with SetWorkflowID(batch_id):
        crew.kickoff_for_each([{"topic": topic} for topic in ("ants", "bees", "cats")])
    for number in (1, 2, 3):
        to_the_old_version(f"{batch_id}/{number}", 1)
    update(f"{batch_id}/3", status="CANCELLED")
    moves = control.move(batch_id)
    assert sorted(moves.moved) == [f"{batch_id}/{number}" for number in (1, 2, 3)]
    assert moves.refused == {}
    for number in (1, 2):
        until(lambda number=number: status(f"{batch_id}/{number}") == "SUCCESS")
    assert status(f"{batch_id}/3") == "CANCELLED"
    assert len(server.requests) == 5


@BOTH
def test_a_workflow_of_the_users_goes_with_the_runs_that_it_has_started(control: Control) -> None:
    flow, run_id = made()
    owned.FLOWS[run_id] = flow
    child = f"{run_id}/child"
    with SetWorkflowID(run_id):
        assert owned.starts_one(run_id) == f"{child}/2"
    last = max(each["function_id"] for each in DBOS.list_workflow_steps(child))
    to_the_old_version(child, last - 1)
    to_the_old_version(run_id, 2)
    owned.CALLS.clear()
    refused = control.move_all(OLD, version=NOW)
    assert child in refused.moved
    assert "a workflow of your own" in refused.refused[run_id]
    assert status(run_id) == "ENQUEUED"
    assert control.move(run_id).moved == (run_id,)
    assert DBOS.retrieve_workflow(run_id).get_result() == f"{child}/2"
    assert owned.CALLS.count("outside") == 1


def test_the_child_of_one_that_is_moved(control: Control) -> None:
    flow, run_id = made()
    owned.FLOWS[run_id] = flow
    child = f"{run_id}/child"
    with SetWorkflowID(run_id):
        owned.starts_one(run_id)
    last = max(each["function_id"] for each in DBOS.list_workflow_steps(child))
    to_the_old_version(child, last - 1)
    to_the_old_version(run_id, 2)
    assert control.move(run_id).moved == (run_id, child)
    assert DBOS.retrieve_workflow(run_id).get_result() == f"{child}/2"


@BOTH
def test_all_of_a_version(control: Control) -> None:
    some = [of_the_old_version() for _ in range(3)]
    _, at_work = of_the_old_version(status="PENDING", executor_id="pod-0", owner_xid="x")
    CALLS.clear()
    moves = control.move_all(OLD)
    assert sorted(moves.moved) == sorted(run_id for _, run_id in some)
    assert list(moves.refused) == [at_work]
    for flow, run_id in some:
        assert flow.retrieve(run_id).get_result() == f"{run_id}/2"
    assert sorted(CALLS) == sorted(f"{run_id}/2" for _, run_id in some)
    control.cancel(at_work)


def test_what_a_run_has_started_is_in_one_list_only(control: Control) -> None:
    """The child comes first among the runs of the version, so it has moved before its parent."""
    flow, parent = of_the_old_version()
    flow_of_child, child = of_the_old_version(parent_workflow_id=parent, created_at=1)
    moves = control.move_all(OLD)
    assert moves.moved == (child, parent)
    assert (moves.kept, moves.refused) == ({}, {})
    assert flow_of_child.retrieve(child).get_result() == f"{child}/2"
    assert flow.retrieve(parent).get_result() == f"{parent}/2"


@pytest.mark.parametrize("is_async", [False, True])
def test_one_that_does_not_fit_says_how_it_is_moved_back(
    control: Control, serve: Serve, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    crew, kickoff, changed = changing(is_async)
    server, run_id = serve(lambda _: text("done")), unique("run")
    with SetWorkflowID(run_id):
        kickoff()
    changed.append(True)
    to_the_old_version(run_id, last_of(run_id))
    control.move(run_id)
    back = f"Under the one before it goes on (crewai-dbos runs move {run_id} --version {OLD})"
    with pytest.raises(DriftError, match=re.escape(back)):
        crew.retrieve(run_id).get_result()
    until(lambda: back in caplog.text)  # told when it has been written
    assert back in str(control.run(run_id).reason)
    assert len(server.requests) == 2, "and no call was made"
    assert "already" in control.move(run_id).kept[run_id]
    changed.clear()
    control.resume(run_id)
    assert crew.retrieve(run_id).get_result().raw == "done"


def test_one_that_does_not_fit_stops_though_redact_fails(control: Control, serve: Serve) -> None:
    def redact(said: str) -> str:
        if changed:
            raise KeyError("a rule that the new code has not")
        return said

    crew, kickoff, changed = changing(redact=redact)
    serve(lambda _: text("done"))
    run_id = unique("run")
    with SetWorkflowID(run_id):
        kickoff()
    changed.append(True)
    to_the_old_version(run_id, last_of(run_id))
    control.move(run_id)
    with pytest.raises(DriftError):
        crew.retrieve(run_id).get_result()
    run = control.run(run_id)
    assert run.state == "stopped"
    assert "redact has failed with KeyError" in str(run.reason)
    assert f"--version {OLD}" in str(run.reason)
    changed.clear()
    control.resume(run_id)
    assert crew.retrieve(run_id).get_result().raw == "done"


def changing(
    is_async: bool = False, **options: Any
) -> tuple[DBOSCrew, Callable[[], Any], list[bool]]:
    """A crew with its tasks the other way round once it has changed, and how it is kicked off."""
    changed: list[bool] = []

    def build() -> Crew:
        crew = ordinary(tasks=2)
        return Crew(agents=crew.agents, tasks=crew.tasks[::-1]) if changed else crew

    crew = DBOSCrew(crew_name=unique("crew"), orig_crew=build, **options)

    def kickoff() -> Any:
        if is_async:
            return asyncio.run(crew.akickoff({"topic": "otters"}))
        return crew.kickoff({"topic": "otters"})

    return crew, kickoff, changed


def last_of(run_id: str) -> int:
    """The step id of the last request to an LLM."""
    return max(
        int(each["function_id"])
        for each in DBOS.list_workflow_steps(run_id)
        if "llm" in each["function_name"]
    )


def test_a_version_that_was_never_launched(control: Control) -> None:
    _, run_id = of_the_old_version()
    with pytest.raises(DefinitionError, match=r"'22'.*There are: 2, 1"):
        control.move(run_id, version="22")
    with pytest.raises(DefinitionError, match="'22'"):
        control.move_all(OLD, version="22")
    control.move(run_id)


Call = Callable[..., Any]


@pytest.fixture
def runs(url: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    return lambda *arguments: CliRunner().invoke(app, ["runs", *arguments])


def test_the_command(control: Control, runs: Call) -> None:
    flow, run_id = of_the_old_version()
    other, at_work = of_the_old_version(status="PENDING", executor_id="pod-0", owner_xid="x")
    told = runs("stranded")
    assert f"crewai-dbos runs move {run_id} --version {NOW}" in " ".join(told.output.split())
    moved = runs("move", run_id, at_work, "--version", NOW)
    assert moved.exit_code == 1
    assert run_id in moved.stdout.splitlines()  # beside what the run prints, which goes on here
    assert "--even-if-running" in moved.stderr
    assert flow.retrieve(run_id).get_result() == f"{run_id}/2"
    every = runs("move", "--all-of-version", OLD, "--even-if-running", "--json")
    assert every.exit_code == 0
    assert f'"{at_work}"' in every.stdout
    assert other.retrieve(at_work).get_result() == f"{at_work}/2"
    assert runs("move").exit_code == 2
    assert runs("move", run_id, "--all-of-version", OLD).exit_code == 2
    assert runs("move", "--all-of-version", OLD, "--version", "22").exit_code == 2


def test_a_run_that_is_resumed_in_a_version_that_nobody_has(control: Control, runs: Call) -> None:
    flow, run_id = of_the_old_version()
    control.cancel(run_id)
    told = runs("resume", run_id)
    assert "crewai-dbos runs move" in told.stderr
    control.move(run_id)
    goes_on(flow, run_id)


def test_the_page(control: Control, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("docs/deploys.md")
    program: dict[str, Any] = {}
    exec(block, program)
    flow, run_id = of_the_old_version()
    program["move_what_is_left"](url, OLD, NOW)
    assert "1 runs go on under 2." in capsys.readouterr().out
    goes_on(flow, run_id)
