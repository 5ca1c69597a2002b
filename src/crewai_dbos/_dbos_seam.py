"""Everything of DBOS that is not public, in one place. Read against dbos 3.4.0.

`tests/test_dbos_seam.py` fails when one of these moves.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import dbos._dbos as _dbos_module
import sqlalchemy as sa
from dbos import DBOS, DBOSClient, PortableWorkflowError, Serializer
from dbos._context import (
    DBOSContext,
    _dbos_context_var,
    get_local_dbos_context,
    get_workflow_start_options,
)
from dbos._datasource import AsyncSQLAlchemyDatasource, SQLAlchemyDatasource
from dbos._error import (
    DBOSBaseException,
    DBOSStepTimeoutError,
    DBOSUnexpectedStepError,
    DBOSWorkflowCancelledError,
)
from dbos._registrations import get_dbos_func_name
from dbos._serialization import DBOSDefaultSerializer, DBOSPortableJSON
from dbos._sys_db import SystemDatabase, db_retry
from dbos._utils import GlobalParams

from crewai_dbos import _patches
from crewai_dbos._functions import attribute
from crewai_dbos._leases import Lease, lent
from crewai_dbos._setting import setting
from crewai_dbos._signals import ControlSignal
from crewai_dbos._threads import in_event_loop, off_the_loop
from crewai_dbos.errors import CrewaiDbosError

__all__ = [
    "IMPORTED_AT_LAUNCH",
    "DBOSBaseException",
    "DBOSContext",
    "DBOSDefaultSerializer",
    "DBOSStepTimeoutError",
    "DBOSUnexpectedStepError",
    "DBOSWorkflowCancelledError",
    "PortableWorkflowError",
    "RecordedRow",
    "application_name",
    "application_serializer",
    "assigned_workflow_id",
    "closure_of",
    "configuration",
    "current_context",
    "decorated_kind",
    "detached",
    "get_dbos_func_name",
    "is_constructed",
    "is_launched",
    "is_shut_down",
    "looking_first",
    "on_the_loop_of_dbos",
    "on_workflow_thread",
    "open_workflow",
    "operation_name",
    "poll_internal_queue",
    "portable_row",
    "recorded_rows",
    "registered_functions",
    "step_options_of",
    "surviving",
    "system_database",
    "user_code",
    "using_context",
    "whole_configuration",
    "write_portable_rows",
]

T = TypeVar("T")

IMPORTED_AT_LAUNCH = "dbos._sys_db_sqlite"
"""What DBOS imports when it is launched on SQLite."""


def is_launched() -> bool:
    instance = _dbos_module._dbos_global_instance
    return instance is not None and instance._launched


def is_shut_down() -> bool:
    """Whether DBOS is not launched any more, or about not to be."""
    return not is_launched() or not launched_instance()._initialized


def is_constructed() -> bool:
    return _dbos_module._dbos_global_instance is not None


def poll_internal_queue(dbos: DBOS, seconds: float) -> None:
    """Have `dbos`, which is not launched, look every `seconds` for runs to recover, resume, fork.

    Every second is its default, and it waits once before it looks for the first time.
    """
    dbos._registry.get_internal_queue()._polling_interval_sec = seconds


def looking_first(start_queued_workflows: Callable[..., Any]) -> Callable[..., Any]:
    """Have a poll of a queue ask first whether anything is in it, in a tenth of the time.

    DBOS builds its statements anew for each poll, which is most of what a process does that polls
    many times a second.
    """
    waiting: WeakKeyDictionary[SystemDatabase, Any] = WeakKeyDictionary()

    def start(self: SystemDatabase, queue: Any, *args: Any, **kwargs: Any) -> Any:
        if self not in waiting:
            columns = self.tables.workflow_status.c
            where = (columns.queue_name == sa.bindparam("queue"), columns.status == "ENQUEUED")
            waiting[self] = sa.select(columns.priority).where(*where).limit(1)
        with self.engine.connect() as connection:
            found = connection.execute(waiting[self], {"queue": queue.name}).first()
        return ([], None) if found is None else start_queued_workflows(self, queue, *args, **kwargs)

    return start


def current_context() -> DBOSContext | None:
    return get_local_dbos_context()


def open_workflow() -> DBOSContext:
    """The position in the workflow whose body is running here."""
    context = get_local_dbos_context()
    if context is None or not context.is_within_workflow():
        raise RuntimeError("This is called in the body of a DBOS workflow only")
    return context


def on_workflow_thread() -> bool:
    """Whether this is a thread on which DBOS recovers workflows, and not one they started."""
    executor = _dbos_module._get_dbos_instance()._executor
    return in_event_loop() or threading.current_thread() in executor._threads


def on_the_loop_of_dbos() -> bool:
    """Whether this thread runs the event loop that DBOS hands coroutines to.

    A sync call in it that DBOS runs as a coroutine would wait for itself.
    """
    if not in_event_loop():
        return False
    loops = _dbos_module._get_dbos_instance()._background_event_loop
    return asyncio.get_running_loop() is loops.target_loop()


def assigned_workflow_id() -> str | None:
    """The id of the enclosing ``with SetWorkflowID(...)`` that no workflow has taken yet."""
    assigned = get_workflow_start_options().assigned_id
    return None if assigned is None or assigned.consumed else assigned.workflow_id


@contextmanager
def using_context(context: DBOSContext | None) -> Iterator[None]:
    """Run a block as the workflow position that `context` stands for."""
    before = _dbos_context_var.get()
    _dbos_context_var.set(context)
    try:
        yield
    finally:
        _dbos_context_var.set(before)


class _Position:
    """The workflow position, as threads are lent it. DBOS does not ask for how long it is good."""

    def lend(self, lease: Lease | None) -> None:
        _dbos_context_var.set(None if lease is None else lease.copy_of(self))

    def copied(self, context: Context) -> DBOSContext | None:
        found = context.get(_dbos_context_var)
        # A workflow of the user's counts its steps in one place; DBOS's threads of it have none.
        if found is None or (type(found) is DBOSContext and found.is_workflow()):
            return None
        position = type(found).__new__(type(found))
        position.__dict__.update(found.__dict__)
        return position

    def empty(self, copied: DBOSContext | None) -> None:
        if copied is not None:
            copied.__class__ = DBOSContext
            copied.__dict__ = DBOSContext().__dict__


lent.append(_Position())


@contextmanager
def surviving() -> Iterator[None]:
    """The block runs on a thread that is not the run's alone: what ends the run must not end that.

    Raises:
        Exception: What the run is ended with, if that is an exception as others are.
    """
    try:
        yield
    except ControlSignal as signal:
        error = signal.error
        raise error if isinstance(error, Exception) else CrewaiDbosError(str(error)) from None
    except DBOSBaseException as error:
        raise CrewaiDbosError(str(error)) from error


def detached(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `function` outside every workflow, so that DBOS does not record it as a step."""
    return off_the_loop(lambda: contextvars.Context().run(function, *args, **kwargs))


def operation_name(name: str) -> str:
    """One spelling for what DBOS stores as ``DBOS.setEvent`` and starts as ``set_event``."""
    own = name.startswith("DBOS.") or name in _STARTED_AS
    return name.removeprefix("DBOS.").replace("_", "").lower() if own else name


_STARTED_AS = {"sleep", "recv", "send", "send_bulk", "set_event", "write_stream", "close_stream"}


# What the doctor reads ----------------------------------------------------------


def configuration() -> dict[str, Any] | None:
    """What the DBOS instance of this process was configured with; None if there is none.

    By the names of `DBOSConfig`, as far as the doctor needs them. What is DBOS's own choice is
    left out.
    """
    instance = _dbos_module._dbos_global_instance
    if instance is None:
        return None
    version, executor = GlobalParams.app_version, GlobalParams.executor_id
    if instance._launched and version == instance._registry.compute_app_version(
        instance._config["name"]
    ):
        version = ""
    found = {
        "system_database_url": instance._config.get("system_database_url"),
        "system_database_engine": instance._config.get("system_database_engine"),
        "application_version": version,
        "executor_id": "" if executor == "local" else executor,
    }
    return {name: value for name, value in found.items() if value}


def whole_configuration() -> dict[str, Any] | None:
    """All that the DBOS instance of this process was configured with, its keys included."""
    instance = _dbos_module._dbos_global_instance
    if instance is None:
        return None
    keys = {name: getattr(instance, name) for name in ("conductor_key", "transact_enterprise_key")}
    return {**instance._config, **keys}


def application_name() -> str | None:
    """What the launched application is called in its rows."""
    return GlobalParams.app_name


def launched_instance() -> Any:
    """The DBOS instance of this process."""
    return _dbos_module._get_dbos_instance()


def system_database() -> SystemDatabase:
    """Where the launched DBOS instance keeps its workflows."""
    return _dbos_module._get_dbos_instance()._sys_db


def engine() -> sa.Engine:
    """What the launched DBOS instance reaches its database through."""
    found: sa.Engine = system_database().engine
    return found


def hidden(_: bool) -> bool:
    """Whether an error of the database leaves out the values that were written: yes."""
    return True


def registered_functions() -> tuple[list[str], list[str]]:
    """The names of the workflows and of the steps that are registered in this process."""
    names = list(_dbos_module._get_or_create_dbos_registry().workflow_info_map)
    steps = [name.removeprefix("<temp>.") for name in names if name.startswith("<temp>.")]
    return [name for name in names if not name.startswith("<temp>.")], steps


# Readable rows ----------------------------------------------------------------
# DBOS writes a step's output with the serializer of the whole application, pickle by default, and
# has no option for one step. Our entries are JSON already: while one of them is written, the
# application's serializer says it is DBOS's own portable JSON, and DBOS writes and labels the row
# so. Every DBOS tool can read such a row, without this package.

_writing_entry: ContextVar[bool] = ContextVar("crewai_dbos_writing_entry", default=False)


class _EntryFormat(Serializer):
    def __init__(self, application: Serializer) -> None:
        self.application = application

    def serialize(self, data: Any) -> str:
        return self.application.serialize(data)

    def deserialize(self, serialized_data: str) -> Any:
        return self.application.deserialize(serialized_data)

    def name(self) -> str:
        return DBOSPortableJSON.name() if _writing_entry.get() else self.application.name()


def application_serializer() -> Serializer | None:
    """The ``serializer`` of the DBOS config; None if it is DBOS's pickle or plain JSON."""
    instance = _dbos_module._dbos_global_instance
    if instance is None:
        return None
    found = instance._serializer
    if isinstance(found, _EntryFormat):
        found = found.application
    plain = (DBOSDefaultSerializer.name(), DBOSPortableJSON.name())
    return None if found.name() in plain else found


def write_portable_rows() -> None:
    """Prepare the launched DBOS instance for `portable_row`. Any number of times."""
    _patches.apply(_patches.JOURNAL)


def entry_format(serializer: Serializer) -> Serializer:
    """The serializer of the application, which says "portable JSON" where an entry is written."""
    return _EntryFormat(serializer)


def portable_row() -> AbstractContextManager[Any]:
    """The step run in this block is stored as portable JSON."""
    return setting(_writing_entry, True)


def user_code() -> AbstractContextManager[Any]:
    """What is stored inside a step's body is the user's, in the application's format."""
    return setting(_writing_entry, False)


# Reading rows -------------------------------------------------------------------
# DBOS's own listing unpickles every row that says it is a pickle, the user's too. The journal needs
# only names and numbers of those, and its own rows are JSON.


@dataclass(frozen=True)
class RecordedRow:
    """A row of a step.

    Attributes:
        step_id: Its number in the run.
        name: What the step is called.
        output: The JSON data in it; None where it holds something else.
    """

    step_id: int
    name: str
    output: Any


def recorded_rows(run_id: str, client: DBOSClient | None = None) -> list[RecordedRow]:
    """The steps that are recorded of a run, in the order of their numbers.

    Args:
        run_id: The run's workflow id.
        client: Of the database that it is in; None for that of the launched instance.
    """
    database = system_database() if client is None else client._sys_db
    return off_the_loop(lambda: _recorded_rows(database, run_id))


@db_retry()
def _recorded_rows(database: Any, run_id: str) -> list[RecordedRow]:
    steps = database.tables.operation_outputs
    columns = (steps.c.function_id, steps.c.function_name, steps.c.serialization, steps.c.output)
    query = sa.select(*columns).where(*database._wf(steps, run_id)).order_by(steps.c.function_id)
    with database._observability_query() as connection:
        rows = connection.execute(query).fetchall()
    return [
        RecordedRow(step_id, name, _json(output) if format == DBOSPortableJSON.name() else None)
        for step_id, name, format, output in rows
    ]


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


# What a function was decorated with --------------------------------------------


def decorated_kind(function: Any) -> str | None:
    """``"step"``, ``"workflow"``, ``"transaction"`` (of a datasource), or None for a plain one."""
    for layer in _layers(function):
        name = attribute(layer, "dbos_function_name")
        if name is not None:
            original = attribute(layer, "__orig_func")
            temporary = str(attribute(original, "dbos_function_name", "")).startswith("<temp>.")
            if original is not None:
                return "step" if temporary else "workflow"
        if isinstance(
            closure_of(layer).get("self"), (SQLAlchemyDatasource, AsyncSQLAlchemyDatasource)
        ):
            return "transaction"
    return None


def step_options_of(function: Any) -> dict[str, Any]:
    """The options given to ``@DBOS.step(...)`` on `function`: `dbos.StepOptions` less the name."""
    for layer in _layers(function):
        found = closure_of(layer)
        if "retries_allowed" in found:
            names = (
                "retries_allowed",
                "interval_seconds",
                "max_attempts",
                "backoff_rate",
                "should_retry",
                "preemptible",
                "timeout_seconds",
            )
            return {name: found.get(name) for name in names}
    raise TypeError(f"{function!r} is not decorated with DBOS.step")


def _layers(function: Any) -> Iterator[Any]:
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        if inspect.ismethod(function):
            function = function.__func__
        yield function
        function = attribute(function, "__wrapped__")


def closure_of(function: Any) -> dict[str, Any]:
    """What a function refers to in the functions around it, by name, as far as it is set."""
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
