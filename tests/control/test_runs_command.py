"""`crewai-dbos runs`, beside runs of every state."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

import pytest
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner, Result

from control import reading_runs
from control.reading_runs import crew_of
from crewai_dbos import Budget, BudgetExceeded, DBOSCrew, DBOSFlow
from crewai_dbos._commands import runs as command
from crewai_dbos._stored.prices import dollars
from crewai_dbos.cli import app
from crewai_dbos.control import Control, Moves, Node, Run, State
from crewai_dbos.testing import ToolCall, error, text, tool_calls
from support.databases import both_here
from support.names import unique
from support.serving import Serve

BOTH = both_here("url")

serve = reading_runs.serve

Call = Callable[..., Result]


@pytest.fixture
def runs(url: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", url)
    monkeypatch.setattr(command, "_LOOK", 0.05)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["runs", *arguments])

    return call


class Quick(Flow):
    @start()
    def only(self) -> str:
        return "done"


def begin(**options: Any) -> tuple[DBOSFlow, str]:
    made, run_id = DBOSFlow(flow_name=unique("flow"), orig_flow=Quick), unique("run")
    with SetWorkflowID(run_id):
        made.kickoff(**options)
    return made, run_id


def fails(serve: Serve) -> tuple[DBOSCrew, str]:
    serve(lambda _: error(400, message="No \x1b[31mpaper."))
    made, run_id = (
        DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of("find")),
        f"{unique('failed')}-end",
    )
    with SetWorkflowID(run_id), pytest.raises(Exception, match="paper"):
        made.kickoff()
    return made, run_id


@BOTH
def test_a_list(runs: Call, serve: Serve) -> None:
    made, run_id = fails(serve)
    listed = runs("list", "--definition", made.crew_name)
    assert listed.exit_code == 0, listed.output
    (head, line) = listed.stdout.rstrip().splitlines()
    assert head.split() == ["id", "definition", "state", "age", "took", "why"]
    assert line.split()[:3] == [run_id, made.crew_name, "failed"]
    assert "BadRequestError" in line
    assert "\x1b" not in line
    assert "no such run" in runs("list", "--definition", "nobody").stdout


def test_json_has_the_names_of_the_dataclasses(runs: Call) -> None:
    made, run_id = begin()
    page = json.loads(runs("list", "-d", made.flow_name, "--json", "--since", "1h").stdout)
    assert page["cursor"] is None
    (run,) = page["runs"]
    assert set(run) == set(Run.__dataclass_fields__)
    assert (run["run_id"], run["state"], run["tokens"]["total"]) == (run_id, "done", 0)
    assert datetime.fromisoformat(run["created"]).tzinfo is not None
    shown = json.loads(runs("show", run_id, "--json").stdout)
    (method,) = shown["children"]
    assert set(method) == set(Node.__dataclass_fields__)
    assert (method["name"], method["state"]) == ("method:only", "done")


def test_pages(runs: Call) -> None:
    made, _ = begin()
    made.kickoff()
    first = json.loads(runs("list", "-d", made.flow_name, "-n", "1", "--json").stdout)
    told = runs("list", "-d", made.flow_name, "-n", "1")
    assert first["cursor"] in told.stderr
    assert len(told.stdout.splitlines()) == 2
    rest = json.loads(
        runs("list", "-d", made.flow_name, "--cursor", first["cursor"], "--json").stdout
    )
    assert len({run["run_id"] for run in first["runs"] + rest["runs"]}) == 2


def test_one_is_shown_by_the_first_letters_of_its_id(runs: Call, serve: Serve) -> None:
    made, run_id = fails(serve)
    shown = runs("show", run_id[:-2])
    assert shown.exit_code == 0, shown.output
    assert made.crew_name in shown.stdout
    assert "└ task:1.find" in shown.stdout
    assert "\x1b" not in shown.stdout
    other = runs("show", run_id[:-2].upper())
    assert (other.exit_code, "There is no run" in other.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "nowhere"], 1, "There is no run 'nowhere'"),
        (["watch", "nowhere"], 1, "There is no run 'nowhere'"),
        (["list", "--state", "lost"], 2, "There is no state 'lost'"),
        (["list", "--since", "soon"], 2, "'soon' is no time"),
        (["list", "--since", "999999d"], 2, "'999999d' is no time"),
        (["list", "--cursor", "x"], 2, "is no cursor"),
        (["prune", "--older-than", "old", "--yes"], 2, "is no duration"),
        (["prune", "--older-than", "30d"], 2, "--yes"),
        (["lst"], 2, "Did you mean 'list'?"),
        (["list", "--db-url", "nonsense"], 2, "That is no URL of a database"),
        (["cancel", "nowhere"], 1, "There is no run 'nowhere'"),
        (["show", "x", "--db-url", "sqlite:///nowhere.sqlite"], 2, "There is no database"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_can_not_be_done(runs: Call, arguments: list[str], code: int, told: str) -> None:
    done = runs(*arguments)
    assert done.exit_code == code
    assert told in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output


def test_a_run_is_watched_to_its_end(runs: Call, serve: Serve, control: Control) -> None:
    go, begun = threading.Event(), threading.Event()

    @tool("wait")
    def wait() -> str:
        """Wait."""
        begun.set()
        assert go.wait(60)
        return "waited"

    serve(lambda r: text("done") if r.tool_results else tool_calls(ToolCall("wait", {})))
    made = DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of("find", tools=[wait]))
    run_id = unique("watched")
    with SetWorkflowID(run_id):
        handle = made.start()
    assert begun.wait(60)
    seen: list[Result] = []
    watching = threading.Thread(target=lambda: seen.append(runs("watch", run_id)))
    watching.start()
    go.set()
    handle.get_result()
    watching.join(60)
    (watched,) = seen
    lines = [line.split()[1:3] for line in watched.stdout.splitlines()]
    assert watched.exit_code == 0, watched.output
    assert lines[-1] == ["done", run_id]
    assert [path.rpartition("/")[2].partition("(")[0] for _, path in lines[:3]].count("llm#1") == 1
    assert len({tuple(line) for line in lines}) == len(lines)


def test_a_run_is_watched_by_a_program(runs: Call) -> None:
    _, run_id = begin()
    changes = [json.loads(line) for line in runs("watch", run_id, "--json").stdout.splitlines()]
    method, end = changes
    assert (method["what"].rpartition("/")[2], method["state"]) == ("method:only#1", "done")
    assert (end["what"], end["state"]) == (run_id, "done")
    assert all(datetime.fromisoformat(each["at"]).tzinfo is not None for each in changes)


def test_a_run_that_waits_again_is_told_again(runs: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    stands: list[tuple[State, str | None]] = [
        ("running", None),
        ("waiting", "for anybody: approval 1"),
        ("waiting", "for anybody: approval 1"),
        ("running", None),
        ("waiting", "for anybody: approval 2"),
        ("waiting", "for anybody: approval 3"),
        ("running", None),
        ("done", None),
    ]
    left = iter(stands)
    method = Node("m", "method:ask", "method", "done")

    def stood(control: Control, run_id: str) -> Run:
        state, reason = next(left)
        now = datetime.now(timezone.utc)
        return Run("r", None, "flow", state, now, reason=reason, children=(method,))

    monkeypatch.setattr(Control, "run", stood)
    told = [json.loads(line) for line in runs("watch", "r", "--json").stdout.splitlines()]
    assert [(each["state"], each["more"] or None) for each in told if each["what"] == "r"] == [
        stand for position, stand in enumerate(stands) if position != 2
    ]
    assert [each["what"] for each in told].count("m") == 1


def test_a_run_is_cancelled_and_resumed_by_a_program(runs: Call, sql: Callable[..., Any]) -> None:
    made, run_id = begin()
    sql("UPDATE {ws} SET status = 'PENDING' WHERE workflow_uuid = :run", run=run_id)
    for verb, done in (("cancel", "cancelled"), ("resume", "resumed")):
        assert json.loads(runs(verb, run_id, "--json").stdout) == {
            "run_id": run_id,
            done: [run_id],
            "refused": {},
        }
    assert made.retrieve(run_id).get_result() == "done"


def test_what_a_run_has_cost(runs: Call, serve: Serve, control: Control) -> None:
    serve()
    made, run_id = DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of("find")), unique("cost")
    with SetWorkflowID(run_id):
        made.kickoff()
    cost = control.cost_of(run_id)
    told = runs("cost", run_id).stdout
    assert f"{cost.tokens.total:,}" in told
    assert f"\n{dollars(cost.usd)}\n" in told
    stored = json.loads(runs("cost", run_id, "--json").stdout)
    assert stored["tokens"]["total"] == cost.tokens.total
    assert [each["model"] for each in stored["models"]] == ["gpt-4o-mini"]


def test_a_budget_is_raised(runs: Call, serve: Serve) -> None:
    serve()
    made = DBOSCrew(
        crew_name=unique("crew"), orig_crew=crew_of("find", "tell"), budget=Budget(tokens=1)
    )
    run_id = unique("dear")
    with SetWorkflowID(run_id), pytest.raises(BudgetExceeded) as stopped:
        made.kickoff()
    assert "--tokens or --usd" in runs("raise-budget", run_id).output
    refused = " ".join(runs("raise-budget", run_id, "--tokens", "1").output.split())
    (given,) = re.findall(r"crewai-dbos runs (raise-budget \S+ --tokens \d+)", str(stopped.value))
    assert f"Give a limit above that: crewai-dbos runs {given}" in refused
    assert runs(*given.split()).exit_code == 0, "what the messages say can be given"
    told = runs("raise-budget", run_id, "--tokens", "1000000").stdout
    command = told.rpartition("crewai-dbos runs ")[2].split()
    assert runs(*command).exit_code == 0
    assert made.retrieve(run_id).get_result().raw == "done"


def test_an_error_is_told_of_the_run_and_where_it_was_raised(runs: Call, serve: Serve) -> None:
    _, run_id = fails(serve)
    shown = runs("show", run_id).stdout
    of_run, *raised = (line for line in shown.splitlines() if "paper." in line)
    assert of_run.split()[0] == "error"
    assert raised
    assert all(re.search(r"llm(#\d)? +failed ", line) for line in raised), shown
    assert re.search(r"(?m)agent:Clerk +failed +\S+$", shown), shown


def test_a_run_that_failed_is_watched(runs: Call, serve: Serve) -> None:
    _, run_id = fails(serve)
    watched = runs("watch", run_id)
    assert watched.exit_code == 1
    assert "failed" in watched.stdout


def test_stranded(runs: Call, sql: Callable[..., Any]) -> None:
    assert "No run is stranded." in runs("stranded").stdout
    _, run_id = begin()
    sql(
        "UPDATE {ws} SET status = 'ENQUEUED', application_version = 'v0', queue_name = 'none' "
        "WHERE workflow_uuid = :run",
        run=run_id,
    )
    told = runs("stranded").stdout
    assert run_id in told
    assert "Start one, or move the run: crewai-dbos runs move" in " ".join(told.split())
    DBOS.cancel_workflow(run_id)


def in_terminal(columns: int, *arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["runs", *arguments], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_ids_are_whole_in_a_terminal(runs: Call, sql: Callable[..., Any], columns: int) -> None:
    made, run_id = DBOSFlow(flow_name=unique("flow"), orig_flow=Quick), str(uuid4())
    with SetWorkflowID(run_id):
        made.kickoff()
    sql(
        "UPDATE {ws} SET status = 'ENQUEUED', application_version = 'v0', queue_name = 'none' "
        "WHERE workflow_uuid = :run",
        run=run_id,
    )
    try:
        listed = in_terminal(columns, "list", "-d", made.flow_name)
        stranded = in_terminal(columns, "stranded")
        shown = in_terminal(columns, "show", run_id)
        for lines in (listed, stranded, shown):
            assert any(run_id in line.split() for line in lines)
            commands = [line for line in lines if line.startswith("crewai-dbos ")]
            assert all(len(line) <= columns for line in lines if line not in commands)
        for lines in (stranded, shown):
            (command,) = [line for line in lines if line.startswith("crewai-dbos runs")]
            words = shlex.split(command)
            assert words[:-1] == ["crewai-dbos", "runs", "move", run_id, "--version"]
            assert runs(*words[2:], "--even-if-running").exit_code == 0
            sql(
                "UPDATE {ws} SET application_version = 'v0', queue_name = 'none' "
                "WHERE workflow_uuid = :run",
                run=run_id,
            )
        (piped,) = [line for line in runs("stranded").stdout.splitlines() if run_id in line]
        assert piped.startswith(run_id)
        assert f"crewai-dbos runs move {run_id} --version" in piped
    finally:
        DBOS.cancel_workflow(run_id)


def test_runs_of_a_version(runs: Call, sql: Callable[..., Any]) -> None:
    made, old = begin()
    with SetWorkflowID(new := unique("run")):
        made.kickoff()
    sql("UPDATE {ws} SET application_version = 'v0' WHERE workflow_uuid = :run", run=old)
    head, *rest = runs("list", "-d", made.flow_name).stdout.splitlines()
    assert "version" in head.split()
    assert [line.split()[0] for line in rest] == [new, old]
    assert "v0" in rest[1].split()
    head, *rest = runs("list", "-d", made.flow_name, "--version", "v0").stdout.splitlines()
    assert "version" not in head.split()
    assert [line.split()[0] for line in rest] == [old]
    told = runs("list", "-d", made.flow_name, "--version", "v0", "--json").stdout
    assert [each["version"] for each in json.loads(told)["runs"]] == ["v0"]
    assert "There is no such run" in runs("list", "--version", "v7").stdout


def at_work(sql: Callable[..., Any], *run_ids: str) -> None:
    for run_id in run_ids:
        sql("UPDATE {ws} SET status = 'PENDING' WHERE workflow_uuid = :run", run=run_id)


def test_many_are_cancelled_and_resumed(runs: Call, sql: Callable[..., Any]) -> None:
    made, first = begin()
    with SetWorkflowID(second := unique("run")):
        made.kickoff()
    _, done = begin()
    at_work(sql, first, second)
    told = runs("cancel", first, done, "nowhere", second, first, "--by", "ann")
    assert told.exit_code == 1
    assert [line.split()[0] for line in told.stdout.splitlines()] == [first, second]
    assert f"Run {done!r} has ended (SUCCESS)" in told.stderr
    assert "There is no run 'nowhere'" in told.stderr
    assert told.stderr.endswith("2 cancelled, 2 refused.\n")
    at_work(sql, second)
    said = json.loads(runs("cancel", done, second, "nowhere", "--json").stdout)
    assert said["cancelled"] == [second]
    assert set(said["refused"]) == {"nowhere", done}
    again = runs("resume", first, "nowhere", second, done)
    assert again.exit_code == 1
    assert again.stderr.endswith("2 resumed, 2 refused.\n")
    for run_id in (first, second):
        assert made.retrieve(run_id).get_result() == "done"
    refused = runs("resume", done, "--json")
    assert refused.exit_code == 1
    said = json.loads(refused.stdout)
    assert said == {"resumed": [], "refused": {done: refused.stderr.rstrip()}}
    assert "is done" in refused.stderr


@contextmanager
def gone_after(name: str, calls: int) -> Iterator[None]:
    """Have the database go in the next call of a method of `Control` but so many."""
    real, left = getattr(Control, name), [calls]

    def call(*given: Any, **options: Any) -> Any:
        if not left[0]:
            raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
        left[0] -= 1
        return real(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Control, name, call)
        yield


def three(sql: Callable[..., Any]) -> tuple[DBOSFlow, list[str]]:
    made, first = begin()
    every = [first, unique("run"), unique("run")]
    for run_id in every[1:]:
        with SetWorkflowID(run_id):
            made.kickoff()
    at_work(sql, *every)
    return made, every


def test_what_was_done_before_the_database_went_is_told(
    runs: Call, control: Control, sql: Callable[..., Any]
) -> None:
    made, every = three(sql)
    first, second, third = every
    with gone_after("cancel", 1):
        told = runs("cancel", *every, "--json")
    assert told.exit_code == 2
    assert "can't be reached: OperationalError" in told.stderr
    said = json.loads(told.stdout)
    assert said["cancelled"] == [first]
    assert "not known whether" in said["refused"][second]
    assert f"crewai-dbos runs show {second}" in said["refused"][second]
    assert "not tried" in said["refused"][third]
    assert [control.run(each).state == "cancelled" for each in every] == [True, False, False]
    with gone_after("id_of", 1):
        told = runs("cancel", second, third)
    assert (told.exit_code, told.stdout.split()[0]) == (2, second)
    assert f"{third!r}: not tried" in told.stderr
    assert "1 cancelled, 1 refused." in told.stderr
    with gone_after("run", 0):
        told = runs("resume", first, second, "--json")
    assert (told.exit_code, json.loads(told.stdout)["resumed"]) == (0, [first, second])
    assert "can't be read" in told.stderr
    for run_id in (first, second):
        assert made.retrieve(run_id).get_result() == "done"
    runs("cancel", third)


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_moved_before_the_database_went_is_told(
    runs: Call, sql: Callable[..., Any], as_json: bool
) -> None:
    made, every = three(sql)
    first, second, third = every
    for run_id in every:
        sql("UPDATE {ws} SET application_version = 'v0' WHERE workflow_uuid = :run", run=run_id)
    with gone_after("move", 1):
        told = runs("move", *every, "--even-if-running", *["--json"][: int(as_json)])
    assert told.exit_code == 2
    assert "can't be reached: OperationalError" in told.stderr
    if as_json:
        said = json.loads(told.stdout)
        assert said["moved"] == [first]
        assert set(said["refused"]) == {second, third}
    else:
        assert told.stdout.split() == [first]
        assert f"{third!r}: not tried" in told.stderr
    assert made.retrieve(first).get_result() == "done"
    runs("cancel", second, third)


def test_a_run_that_was_moved_with_another_is_not_moved_again(
    runs: Call, monkeypatch: pytest.MonkeyPatch, sql: Callable[..., Any]
) -> None:
    _, every = three(sql)
    asked: list[str] = []

    def move(control: Control, run_id: str, **_: Any) -> Moves:
        asked.append(run_id)
        return Moves((every[0], every[1]))

    with monkeypatch.context() as patch:
        patch.setattr(Control, "move", move)
        told = runs("move", every[0], every[1])
    assert (told.exit_code, told.stdout.split()) == (0, every[:2])
    assert asked == every[:1]
    assert "2 runs are moved." in told.stderr
    runs("cancel", *every)


def test_a_fork_that_nobody_has_taken_has_not_begun(runs: Call, control: Control) -> None:
    _, run_id = begin()
    fork = control.fork(run_id, at="end", version="nobody's")
    shown = runs("show", fork).stdout
    assert " queued " in shown
    assert " started " not in shown
    assert "method:only" in shown
    control.cancel(fork)


def test_when_it_was_queued_and_begun(runs: Call, sql: Callable[..., Any]) -> None:
    made, queue = DBOSFlow(flow_name=unique("flow"), orig_flow=Quick), unique("queue")
    DBOS.register_queue(queue, polling_interval_sec=0.05)
    run = made.start(queue=queue)
    assert run.get_result() == "done"
    shown = runs("show", run.workflow_id).stdout
    assert f"(queue {queue})" in shown.partition(" queued ")[2].splitlines()[0]
    assert " started " in shown
    sql(
        "UPDATE {ws} SET status = 'ENQUEUED', queue_name = 'none', started_at_epoch_ms = NULL "
        "WHERE workflow_uuid = :run",
        run=run.workflow_id,
    )
    sql("DELETE FROM {steps} WHERE workflow_uuid = :run", run=run.workflow_id)
    waits = runs("show", run.workflow_id).stdout
    assert " queued " in waits
    assert " started " not in waits
    DBOS.cancel_workflow(run.workflow_id)
    _, direct = begin()
    assert " queued " not in runs("show", direct).stdout


def test_prune(runs: Call, sql: Callable[..., Any], control: Control) -> None:
    _, run_id = begin()
    sql("UPDATE {ws} SET completed_at = 1000 WHERE workflow_uuid = :run", run=run_id)
    assert runs("prune", "--older-than", "1d", "--dry-run").stdout.split() == [run_id]
    assert control.run(run_id).state == "done"
    assert json.loads(runs("prune", "--older-than", "1d", "--yes", "--json").stdout) == [run_id]
    assert "0 runs are deleted." in runs("prune", "--older-than", "1d", "-y").stdout


def test_without_crewai(url: str, serve: Serve, control: Control) -> None:
    serve()
    made = DBOSCrew(crew_name=unique("crew"), orig_crew=crew_of("find"), events=True)
    run_id = unique("plain")
    with SetWorkflowID(run_id):
        made.kickoff()
    commands = ["--version", "--help", "runs --help", "runs list", "workers", "inbox list"]
    commands += [f"runs show {run_id} --json", f"runs events {run_id} --follow", "runs stranded"]
    commands += [f"runs fork {run_id} --edit task:find=Tea. --id {run_id}-again"]
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from crewai_dbos.cli import app\n"
        "for arguments in sys.argv[1:]:\n"
        "    done = CliRunner().invoke(app, arguments.split())\n"
        "    assert done.exit_code == 0, done.output\n"
        "    print(done.output)\n"
        "assert 'crewai' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *commands],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DBOS_SYSTEM_DATABASE_URL": url},
    )
    assert done.stdout.startswith("crewai-dbos ")
    assert "Exits with 0" in done.stdout
    assert "--install-completion" in done.stdout
    assert control.run(run_id).state == "done"
    assert "run.ended" in done.stdout
    assert made.retrieve(f"{run_id}-again").get_result().raw == "Tea."


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.04, "0.0s"), (99.0, "99.0s"), (125, "2m05s"), (7260, "2h01m"), (2e5, "2d07h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert command._took(seconds) == shown
