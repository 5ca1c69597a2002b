"""What we touch of DBOS's inside is there and does what we take it to do (read at 3.4.0)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import (
    DBOS,
    AsyncSQLAlchemyDatasource,
    DBOSConfiguredInstance,
    Queue,
    Serializer,
    SetWorkflowID,
    SQLAlchemyDatasource,
)
from dbos._error import DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError
from dbos._serialization import DBOSPortableJSON
from dbos._sys_db import SystemDatabase
from dbos._utils import GlobalParams

from crewai_dbos import _dbos_seam as seam
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.joining import joined
from support.launching import QUICK, launched
from support.runs import Rows, afollow, finish, fork, replay, run_id, steps


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dbos.sqlite"


# Decorations ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def datasources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("datasources")
    # DBOS wants them before its launch, and remembers the launch of another test.
    DBOS(config={"system_database_url": f"sqlite:///{folder}/dbos.sqlite", **QUICK})
    try:
        return (
            SQLAlchemyDatasource.create(f"sqlite:///{folder}/sync.sqlite"),
            asyncio.run(
                AsyncSQLAlchemyDatasource.create(f"sqlite+aiosqlite:///{folder}/async.sqlite")
            ),
        )
    finally:
        DBOS.destroy()


def plain(x: int) -> int:
    return x


async def aplain(x: int) -> int:
    return x


@DBOS.step()
def step(x: int) -> int:
    return x


@DBOS.step(retries_allowed=True, max_attempts=4)
async def astep(x: int) -> int:
    return x


@DBOS.workflow()
def workflow(x: int) -> int:
    return x


@DBOS.workflow()
async def aworkflow(x: int) -> int:
    return x


def logged(function: Any) -> Any:
    """A well-behaved decorator of the user's."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        logging.getLogger("tests").debug("called")
        return function(*args, **kwargs)

    return call


class Things:
    def plain(self, x: int) -> int:
        return x

    @DBOS.step()
    def step(self, x: int) -> int:
        return x

    @DBOS.step(preemptible=True)
    async def astep(self, x: int) -> int:
        return x

    @staticmethod
    @DBOS.step()
    def static_step(x: int) -> int:
        return x

    @logged
    @DBOS.step()
    def logged_step(self, x: int) -> int:
        return x

    @DBOS.step()
    @logged
    def step_of_logged(self, x: int) -> int:
        return x


@DBOS.dbos_class()
class Configured(DBOSConfiguredInstance):
    @DBOS.workflow()
    def workflow(self, x: int) -> int:
        return x

    @DBOS.step()
    def step(self, x: int) -> int:
        return x


things = Things()
configured = Configured("seam")


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (plain, None),
        (aplain, None),
        (logged(plain), None),
        (things.plain, None),
        (print, None),
        (Things, None),
        (functools.partial(plain, 1), None),
        (step, "step"),
        (astep, "step"),
        (logged(step), "step"),
        (logged(logged(astep)), "step"),
        (things.step, "step"),
        (Things.step, "step"),
        (things.astep, "step"),
        (things.static_step, "step"),
        (things.logged_step, "step"),
        (things.step_of_logged, "step"),
        (configured.step, "step"),
        (workflow, "workflow"),
        (aworkflow, "workflow"),
        (logged(workflow), "workflow"),
        (configured.workflow, "workflow"),
        (logged(configured.workflow), "workflow"),
    ],
)
def test_a_functions_decoration_is_found_under_others(function: Any, kind: str | None) -> None:
    assert seam.decorated_kind(function) == kind


def test_a_transaction_is_found_under_others(datasources: Any) -> None:
    datasource, async_datasource = datasources

    @datasource.transaction
    def bare(x: int) -> int:
        return x

    @datasource.transaction(name="named")
    def named(x: int) -> int:
        return x

    @async_datasource.transaction()
    async def asynchronous(x: int) -> int:
        return x

    class Bank:
        @datasource.transaction()
        def transfer(self, x: int) -> int:
            return x

    for function in (bare, named, asynchronous, logged(bare), Bank().transfer, Bank.transfer):
        assert seam.decorated_kind(function) == "transaction", function


def test_a_function_that_only_uses_a_datasource_is_plain(datasources: Any) -> None:
    class Report:
        def __init__(self) -> None:
            self.datasource = datasources[0]

        def tool(self) -> Callable[[], str]:
            def report() -> str:
                return str(self.datasource)

            return report

    assert seam.decorated_kind(Report().tool()) is None


def worth_it(error: BaseException) -> bool:
    return True


def test_the_options_of_a_step_are_found_under_others() -> None:
    given = {
        "retries_allowed": True,
        "interval_seconds": 0.25,
        "max_attempts": 7,
        "backoff_rate": 1.5,
        "should_retry": worth_it,
    }

    @DBOS.step(name="seam options", **given)
    def with_options() -> None: ...

    @DBOS.step(name="seam async options", preemptible=True, timeout_seconds=3.5)
    async def with_limits() -> None: ...

    defaults = {"preemptible": False, "timeout_seconds": None}
    assert seam.step_options_of(with_options) == {**given, **defaults}
    assert seam.step_options_of(logged(with_options)) == {**given, **defaults}
    limits = seam.step_options_of(with_limits)
    assert (limits["preemptible"], limits["timeout_seconds"]) == (True, 3.5)
    assert limits["retries_allowed"] is False
    assert seam.step_options_of(things.astep)["preemptible"] is True
    assert seam.step_options_of(things.step_of_logged)["retries_allowed"] is False
    assert seam.step_options_of(configured.step)["max_attempts"] == 3


@pytest.mark.parametrize("function", [plain, logged(plain), print])
def test_what_is_no_step_has_no_options(function: Any) -> None:
    with pytest.raises(TypeError, match=r"not decorated with DBOS\.step"):
        seam.step_options_of(function)


# Where we are ---------------------------------------------------------------------------


def test_launched_is_from_launch_to_destroy(url: str) -> None:
    assert not seam.is_launched()
    DBOS(config={"name": "seam", "system_database_url": url, "log_level": "ERROR"})
    assert not seam.is_launched()
    DBOS.destroy()
    with launched(url):
        assert seam.is_launched()
    assert not seam.is_launched()


def test_the_threads_and_the_loop_that_dbos_runs_workflows_on_are_known(url: str) -> None:
    async def aplan() -> bool:
        return seam.on_the_loop_of_dbos()

    async def elsewhere() -> bool:
        return seam.on_the_loop_of_dbos()

    with launched(url):
        assert finish(seam.on_workflow_thread, run_id())
        assert not seam.on_workflow_thread()
        assert finish(aplan, run_id(), afollow)
        assert not asyncio.run(elsewhere())
        assert not seam.on_the_loop_of_dbos()


def test_the_configuration_is_that_of_the_instance(url: str) -> None:
    assert seam.configuration() is None
    assert seam.whole_configuration() is None
    with launched(url):
        found, whole = seam.configuration(), seam.whole_configuration()
        assert found is not None
        assert whole is not None
        assert found["system_database_url"] == whole["system_database_url"] == url
        assert "application_version" not in found


def test_workflows_and_steps_are_registered_under_their_names() -> None:
    workflows, registered = seam.registered_functions()
    assert {"follow", "afollow"} <= set(workflows)
    assert "seam_reads_rows" in workflows
    assert not {"follow", "afollow"} & set(registered)


def test_the_system_database_asks_and_records_where_the_testing_tools_stand() -> None:
    wanted = ["workflow_id", "function_id", "function_name"]
    assert parameters(SystemDatabase._check_operation_execution_txn) == [*wanted, "conn"]
    assert parameters(SystemDatabase.check_operation_execution)[:3] == wanted
    assert parameters(SystemDatabase.record_operation_result)[0] == "result"
    assert parameters(SystemDatabase.update_workflow_outcome)[0] == "workflow_id"
    source = inspect.getsource(SystemDatabase.check_operation_execution)
    assert "self._check_operation_execution_txn(" in source


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_context_is_that_of_the_workflow_or_of_its_step(url: str) -> None:
    def plan() -> list[Any]:
        context = seam.current_context()
        assert context is not None
        inside = DBOS.run_step(None, where)
        return [context.workflow_id, context.is_workflow(), context.is_step(), *inside]

    def where() -> list[Any]:
        context = seam.current_context()
        assert context is not None
        return [context.workflow_id, context.is_workflow(), context.is_step()]

    run = run_id()
    with launched(url):
        assert seam.current_context() is None
        assert finish(plan, run) == [run, True, False, run, False, True]


def test_a_position_can_be_borrowed_and_is_given_back(url: str) -> None:
    def plan() -> list[Any]:
        context = seam.current_context()
        with seam.using_context(None):
            outside = DBOS.run_step({"name": "unrecorded"}, lambda: DBOS.workflow_id)
            with seam.using_context(context):
                inside = DBOS.run_step({"name": "recorded"}, lambda: DBOS.workflow_id)
        return [outside, inside, seam.current_context() is context]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == [None, run, True]
        assert [row["function_name"] for row in steps(run)] == ["recorded"]


def test_what_is_detached_is_no_step_of_the_workflow(url: str) -> None:
    def plan() -> list[Any]:
        return [
            len(seam.detached(DBOS.list_workflow_steps, str(DBOS.workflow_id))),
            len(DBOS.list_workflow_steps(str(DBOS.workflow_id))),
        ]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == [0, 0]
        assert [row["function_name"] for row in steps(run)] == ["DBOS.listWorkflowSteps"]


def test_the_assigned_id_is_seen_until_a_workflow_takes_it(url: str) -> None:
    with launched(url):
        assert seam.assigned_workflow_id() is None
        with SetWorkflowID("outer"):
            assert seam.assigned_workflow_id() == "outer"
            with SetWorkflowID("inner"):
                assert seam.assigned_workflow_id() == "inner"
            assert seam.assigned_workflow_id() == "outer"
            assert workflow(1) == 1
            assert seam.assigned_workflow_id() is None
        assert seam.assigned_workflow_id() is None


def test_the_signals_of_dbos_pass_what_catches_exceptions() -> None:
    for cls in (DBOSWorkflowCancelledError, DBOSWorkflowConflictIDError):
        assert issubclass(cls, BaseException)
        assert not issubclass(cls, Exception)
    assert issubclass(seam.DBOSUnexpectedStepError, Exception)


# Readable rows ---------------------------------------------------------------------------


class Shouting(Serializer):
    """A serializer of the user's: JSON in capitals."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str).upper()

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data.lower())

    def name(self) -> str:
        return "shouting"


class Upper(Shouting):
    """One that kept the name DBOS gives to those without."""

    def name(self) -> str:
        return "custom_serializer"


@DBOS.step()
def bare() -> str:
    return "bare"


def entries_and_steps() -> list[str]:
    with joined("work") as scope:
        entry = scope.run(Call("a", kind="work"), lambda: "entry")
        return [entry, bare()]


@pytest.fixture
def rows(url: str) -> Iterator[Rows]:
    rows = Rows(url)
    yield rows
    rows.close()


def test_an_entry_is_json_that_anybody_can_read(url: str, rows: Rows) -> None:
    run = run_id()
    with launched(url):
        assert finish(entries_and_steps, run) == ["entry", "bare"]
        output, error, serialization = rows.one(run, "work#1/a#1")
        assert serialization == "portable_json"
        assert error is None
        assert json.loads(str(output))["result"] == "entry"
        pin, _, serialization = rows.one(run, "work#1/dbos#1")
        assert serialization == "portable_json"
        assert json.loads(str(pin))["ids"] == 1


def test_a_failed_call_is_json_too_and_no_error_of_dbos(url: str, rows: Rows) -> None:
    def plan() -> str:
        with joined("work") as scope, pytest.raises(ZeroDivisionError):
            scope.run(Call("a", kind="work"), lambda: 1 / 0)
        return "caught"

    run = run_id()
    with launched(url):
        assert finish(plan, run) == "caught"
        output, error, serialization = rows.one(run, "work#1/a#1")
        assert (error, serialization) == (None, "portable_json")
        assert json.loads(str(output))["error"]["type"] == "builtins:ZeroDivisionError"


@pytest.mark.parametrize("serializer", [None, Shouting(), Upper()], ids=lambda s: type(s).__name__)
def test_the_rows_of_the_user_keep_the_applications_format(
    url: str, rows: Rows, serializer: Serializer | None
) -> None:
    run = run_id()
    config = {} if serializer is None else {"serializer": serializer}
    expected = "py_pickle" if serializer is None else serializer.name()
    with launched(url, **config):
        first = finish(entries_and_steps, run)
        output, _, serialization = rows.one(run, "bare")
        assert serialization == expected
        if serializer is not None:
            assert output == '"BARE"'
        assert rows.one(run, "work#1/a#1")[2] == "portable_json"
        assert [text.lower() for text in replay(run)] == first
        assert [text.lower() for text in fork(run, 2)] == first
    # Also by another process, which has not written an entry yet.
    with launched(url, **config):
        assert [text.lower() for text in replay(run)] == first


def test_what_a_recorded_call_stores_itself_is_in_the_applications_format(url: str) -> None:
    """Portable JSON would make a list of the set."""

    def body() -> str:
        DBOS.set_event("seen", {1, 2})
        DBOS.write_stream("stream", {3})
        return "done"

    async def abody() -> str:
        await DBOS.set_event_async("seen later", {4})
        return "done"

    def plan() -> list[str]:
        with joined("work") as scope:
            made = scope.run(Call("a", kind="work"), body)
            return [made, asyncio.run(scope.arun(Call("b", kind="work"), abody))]

    run = run_id()
    with launched(url):
        assert finish(plan, run) == ["done", "done"]
        assert DBOS.get_event(run, "seen") == {1, 2}
        assert DBOS.get_event(run, "seen later") == {4}
        assert next(iter(DBOS.read_stream(run, "stream"))) == {3}


def test_the_applications_serializer_is_wrapped_once(url: str) -> None:
    with launched(url):
        instance = seam._dbos_module._get_dbos_instance()
        original = instance._serializer
        seam.write_portable_rows()
        wrapped = instance._serializer
        seam.write_portable_rows()
        assert instance._serializer is wrapped is not original
        assert wrapped.name() == original.name()
        with seam.portable_row():
            assert wrapped.name() == "portable_json"
            with seam.user_code():
                assert wrapped.name() == original.name()
            assert wrapped.name() == "portable_json"
        assert wrapped.deserialize(wrapped.serialize({1})) == {1}


def test_steps_are_rows_of_these_columns(url: str) -> None:
    """What operators, our messages and our tests look for."""
    with launched(url):
        columns = {
            c["name"] for c in sa.inspect(sa.create_engine(url)).get_columns("operation_outputs")
        }
    assert {"workflow_uuid", "function_id", "function_name", "output", "error"} <= columns
    assert "serialization" in columns


# Reading rows ----------------------------------------------------------------------------


@DBOS.step()
def pickled(word: str) -> tuple[str]:
    return (word,)


@DBOS.workflow(name="seam_reads_rows")
def makes_rows() -> None:
    with joined("work") as scope:
        scope.run(Call("a", kind="work"), lambda: {"said": "ä"})
    pickled("theirs")


def test_rows_are_those_that_dbos_lists_and_only_json_is_read(database_url: str) -> None:
    with launched(database_url):
        with SetWorkflowID("r"):
            makes_rows()
        listed = DBOS.list_workflow_steps("r")
        found = seam.recorded_rows("r")
        assert [(row.step_id, row.name) for row in found] == [
            (step["function_id"], step["function_name"]) for step in listed
        ]
        by_name = {row.name: row.output for row in found}
        assert by_name["work#1/a#1"]["result"] == {"said": "ä"}
        assert by_name["pickled"] is None
        assert listed[-1]["output"] == ("theirs",)
        assert seam.recorded_rows("another") == []


def test_rows_are_read_where_an_event_loop_runs(url: str) -> None:
    async def read() -> list[seam.RecordedRow]:
        return seam.recorded_rows("r")

    with launched(url):
        with SetWorkflowID("r"):
            makes_rows()
        assert asyncio.run(read()) == seam.recorded_rows("r")


def test_the_applications_serializer_is_one_of_its_own_or_none(url: str) -> None:
    assert seam.application_serializer() is None
    with launched(url):
        assert seam.application_serializer() is None
        seam.write_portable_rows()
        assert seam.application_serializer() is None
    for own in (Shouting(), seam.DBOSDefaultSerializer, DBOSPortableJSON):
        with launched(url, serializer=own):
            for prepare in (lambda: None, seam.write_portable_rows):
                prepare()
                found = seam.application_serializer()
                assert found is (own if isinstance(own, Shouting) else None)


# Polls ---------------------------------------------------------------------------------


def test_an_empty_queue_is_only_looked_at(database_url: str) -> None:
    claims: list[str] = []

    def claim(system: SystemDatabase, queue: Queue, *args: Any) -> Any:
        claims.append(queue.name)
        return SystemDatabase.start_queued_workflows(system, queue, *args)

    dbos = DBOS(config={"system_database_url": database_url, **QUICK})
    try:
        seam.poll_internal_queue(dbos, 3600)  # we are the only one that takes a run out of it
        DBOS.launch()
        queue = next(q for q in dbos._registry.internal_queues() if "internal" in q.name)
        process = (GlobalParams.executor_id, GlobalParams.app_version, None)
        poll = functools.partial(seam.looking_first(claim), seam.system_database(), queue, *process)
        finish(lambda: "done", run := run_id())
        assert poll() == ([], None)
        assert claims == []
        waiting = DBOS.fork_workflow(run, 1).workflow_id
        assert poll() == ([waiting], None)
        assert poll() == ([], None)
        assert claims == [queue.name]
    finally:
        DBOS.destroy()


def test_how_long_a_recovered_run_waits(url: str) -> None:
    dbos = DBOS(config={"system_database_url": url, **QUICK})
    try:
        seam.poll_internal_queue(dbos, 0.01)
        DBOS.launch()
        queues = {queue.name: queue for queue in dbos._registry.internal_queues()}
        assert queues["_dbos_internal_queue"].polling_interval_sec == 0.01
        first = finish(lambda: "done", run := run_id())
        assert fork(run, 1) == first
    finally:
        DBOS.destroy()
