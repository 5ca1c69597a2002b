"""Everything that this package changes in the whole process, in one table.

What belongs to somebody else, to crewAI, DBOS, the standard library or SQLAlchemy, is changed here
and nowhere else. A change is made once, at the moment that its row names, and stays. Most change
nothing where no durable run is at work; those of SQLite, of a launch, of the database's errors and
of queues are for every DBOS in the process.
"""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy

from crewai_dbos._classes import is_made_here

IMPORT = "the package is imported"
OLD_SQLITE = "the package is imported, with a libsqlite before 3.42"
DEFINITION = "a durable agent, crew or flow is defined"
CALL = "a durable object is used, and DBOS is launched"
WAIT = "a run is begun, or its result is asked for"
JOURNAL = "a journal is opened"
AGENT = "a `DBOSAgent` is defined"
RUN = "a run begins, or work joins a workflow"
MCP = "an agent asks MCP servers for tools, and a run has begun before"
BUILD = "an agent, crew or flow of the user's is built"
CREW = "a run builds its crew"
THREADS = "a run may start threads"
METHOD = "a method of a flow is at work"
LAUNCH = "DBOS is launched, and a durable agent, crew or flow is defined"
REPLAY = "a recorded history is replayed"
CRASH = "a process starts that a crash test kills"

SET, DERIVED, EVENT = "set", "set, and in derived classes", "an event"
"""How: an attribute; one that derived classes may have anew; something that SQLAlchemy tells of."""


@dataclass(frozen=True)
class Patch:
    """Something of somebody else's that is changed.

    Attributes:
        when: The moment from which on.
        why: What for.
        owner: Whose it is: ``module``, ``module:object`` or ``module:function()``, which returns
            the object. Import paths, because crewAI is not loaded before somebody needs it.
        name: The attribute.
        replacement: A function of this package, as ``module:function``. It is given what stands
            there and returns what is to stand there.
        how: `SET`, `DERIVED` or `EVENT`: then the replacement is called at the event.
    """

    when: str
    why: str
    owner: str
    name: str
    replacement: str
    how: str = SET


def _rows(when: str, why: str, *rows: tuple[str, ...]) -> Iterator[Patch]:
    return (Patch(when, why, *row) for row in rows)


_SYSTEM_DATABASE = "dbos._sys_db:SystemDatabase"

TABLE = (
    *_rows(
        IMPORT,
        "a commit on SQLite is on the disk, also when the power goes at once",
        (_SYSTEM_DATABASE, "create", "_dbos_seam.sqlite_journal:keeping"),
    ),
    *_rows(
        OLD_SQLITE,
        "DBOS reads the time with a function that an old libsqlite lacks",
        ("sqlalchemy:Engine", "connect", "_sqlite_clock:teach", EVENT),
    ),
    *_rows(
        DEFINITION,
        "a launch goes on with runs at once, and says if another live process recovers the same",
        ("dbos:DBOS", "launch", "_runs.launching:launching"),
    ),
    *_rows(
        DEFINITION,
        "a process that has destroyed DBOS is none that others are told of at a launch",
        ("dbos:DBOS", "destroy", "_runs.live_processes:destroying"),
    ),
    *_rows(
        CALL,
        "an error of the database does not print what is stored",
        (
            "crewai_dbos._dbos_seam.instance:engine()",
            "hide_parameters",
            "_dbos_seam.instance:hidden",
        ),
    ),
    *_rows(
        CALL,
        "a commit on SQLite is on the disk, also where DBOS was launched before the import",
        (
            "crewai_dbos._dbos_seam.instance:engine()",
            "checkout",
            "_dbos_seam.sqlite_journal:checked_out",
            EVENT,
        ),
    ),
    *_rows(
        WAIT,
        "whoever waits for a run hears that DBOS is destroyed",
        (_SYSTEM_DATABASE, "await_workflow_result", "_dbos_seam.waiting:ending_with_dbos"),
        (_SYSTEM_DATABASE, "await_workflow_result_async", "_dbos_seam.waiting:ending_with_dbos"),
    ),
    *_rows(
        WAIT,
        "runs wait for a database that can't be written for now",
        (
            "dbos._sys_db",
            "retriable_sqlite_exception",
            "_dbos_seam.unwritable:wait_until_writable",
        ),
        (
            "dbos._sys_db",
            "retriable_postgres_exception",
            "_dbos_seam.unwritable:wait_until_writable",
        ),
    ),
    *_rows(
        JOURNAL,
        "no call of a run begins after this process has cancelled it",
        (_SYSTEM_DATABASE, "cancel_workflows", "_dbos_seam.stopping:noting"),
    ),
    *_rows(
        JOURNAL,
        "the connection that records is closed with DBOS",
        (_SYSTEM_DATABASE, "destroy", "_dbos_seam.recording:letting_go"),
    ),
    *_rows(
        JOURNAL,
        "DBOS.patch can't work inside a run, and would say nothing of it",
        ("dbos:DBOS", "patch", "_journal.pinning:refusing_in_runs"),
        ("dbos:DBOS", "patch_async", "_journal.pinning:refusing_in_runs"),
        ("dbos:DBOS", "deprecate_patch", "_journal.pinning:refusing_in_runs"),
        ("dbos:DBOS", "deprecate_patch_async", "_journal.pinning:refusing_in_runs"),
    ),
    *_rows(
        JOURNAL,
        "what asks for an object past an LLM's `call` makes one attempt inside a recorded call",
        (
            "crewai.utilities.internal_instructor:InternalInstructor",
            "to_pydantic",
            "_objects.clients:asking_once",
        ),
    ),
    *_rows(
        AGENT,
        "a crew would wait for ever for a task whose thread ends with a signal",
        ("crewai:Task", "_execute_task_async", "_crewai_seam.crew:handing_signals_to_futures"),
    ),
    *_rows(
        RUN,
        "handlers of events have a place in the run",
        ("crewai.events.event_bus:crewai_event_bus", "__class__", "_objects.events:placing"),
    ),
    *_rows(
        RUN,
        "which tools an MCP server offers is recorded, once one is asked",
        ("crewai:Agent", "get_mcp_tools", "_objects.mcp:resolving"),
    ),
    *_rows(
        MCP,
        "which tools an MCP server offers is recorded",
        ("crewai.mcp.tool_resolver", "MCPClient", "_objects.mcp_discovery:recording_discovery"),
    ),
    *_rows(
        RUN,
        "what is recorded to have ended has no save of memory left in the background",
        (
            "crewai.memory.unified_memory:Memory",
            "_submit_save",
            "_objects.memory:waited_for",
        ),
    ),
    *_rows(
        RUN,
        "what a hook asks a person is a request in the database",
        (
            "crewai.hooks.tool_hooks:ToolCallHookContext",
            "request_human_input",
            "_people.hooks:asking",
        ),
        (
            "crewai.hooks.llm_hooks:LLMCallHookContext",
            "request_human_input",
            "_people.hooks:asking",
        ),
    ),
    *_rows(
        BUILD,
        "hooks that are methods of a `@CrewBase` class are called once, in a run with its object",
        ("crewai.project.crew_base", "_register_crew_hooks", "_objects.hooks_of_crews:noting"),
        ("crewai.hooks", "register_before_llm_call_hook", "_objects.hooks_of_crews:taking"),
        ("crewai.hooks", "register_after_llm_call_hook", "_objects.hooks_of_crews:taking"),
        ("crewai.hooks", "register_before_tool_call_hook", "_objects.hooks_of_crews:taking"),
        ("crewai.hooks", "register_after_tool_call_hook", "_objects.hooks_of_crews:taking"),
        ("crewai.hooks.dispatch", "register", "_objects.hooks_of_crews:taking"),
    ),
    *_rows(
        CREW,
        "files that crewAI keeps by ids of crews and tasks are those of one run",
        ("crewai.utilities.file_store", "astore_files", "_objects.files:kept_apart"),
        ("crewai.utilities.file_store", "aget_files", "_objects.files:kept_apart"),
        ("crewai.utilities.file_store", "aclear_files", "_objects.files:kept_apart"),
        ("crewai.utilities.file_store", "astore_task_files", "_objects.files:kept_apart"),
        ("crewai.utilities.file_store", "aget_task_files", "_objects.files:kept_apart"),
        ("crewai.utilities.file_store", "aclear_task_files", "_objects.files:kept_apart"),
    ),
    *_rows(
        CREW,
        "a crew loads its knowledge only for a query that is not recorded",
        ("crewai.knowledge.knowledge:Knowledge", "add_sources", "_objects.knowledge:putting_off"),
        ("crewai.knowledge.knowledge:Knowledge", "query", "_objects.knowledge:loading_first"),
        ("crewai.knowledge.knowledge:Knowledge", "aquery", "_objects.knowledge:aloading_first"),
    ),
    *_rows(
        THREADS,
        "threads and jobs of pools work in the place of the run that starts them",
        ("threading:Thread", "start", "_carrying:starting"),
        ("concurrent.futures:ThreadPoolExecutor", "submit", "_carrying:submitting"),
        ("multiprocessing.pool:ThreadPool", "apply_async", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "imap", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "imap_unordered", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "map", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "map_async", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "starmap", "_carrying:mapping"),
        ("multiprocessing.pool:ThreadPool", "starmap_async", "_carrying:mapping"),
    ),
    *_rows(
        THREADS,
        "a worker thread works for the run whose job it takes out of a queue",
        ("queue:Queue", "put", "_handing_over:putting"),
        ("queue:Queue", "get", "_handing_over:getting"),
        ("asyncio:Queue", "put_nowait", "_handing_over:putting"),
        ("asyncio:Queue", "get_nowait", "_handing_over:getting"),
    ),
    *_rows(
        METHOD,
        "what a method uses as it is works through a durable copy",
        ("crewai.tools.base_tool:BaseTool", "run", "_flows.interception:tool_run"),
        ("crewai.tools.base_tool:BaseTool", "arun", "_flows.interception:tool_arun"),
        ("crewai.tools.base_tool:Tool", "run", "_flows.interception:tool_run"),
        ("crewai.tools.base_tool:Tool", "arun", "_flows.interception:tool_arun"),
        (
            "crewai.tools.base_tool:BaseTool",
            "to_structured_tool",
            "_flows.interception:structured_tool",
        ),
        ("crewai.lite_agent:LiteAgent", "kickoff", "_flows.interception:lite_agent_kickoff"),
        ("crewai:Agent", "kickoff", "_flows.interception:agent_kickoff"),
        ("crewai:Agent", "kickoff_async", "_flows.interception:agent_akickoff"),
        ("crewai:Agent", "akickoff", "_flows.interception:agent_akickoff"),
        ("crewai:Agent", "execute_task", "_flows.interception:agent_task"),
        ("crewai:Agent", "aexecute_task", "_flows.interception:agent_atask"),
        ("crewai:Crew", "kickoff", "_flows.interception:crew_kickoff"),
        ("crewai:Crew", "akickoff", "_flows.interception:crew_akickoff"),
        ("crewai.flow.runtime:Flow", "kickoff_async", "_flows.interception:flow_kickoff"),
        ("crewai.llms.base_llm:BaseLLM", "__init_subclass__", "_flows.interception:deriving_llms"),
        ("crewai.llms.base_llm:BaseLLM", "call", "_flows.interception:llm_call", DERIVED),
        ("crewai.llms.base_llm:BaseLLM", "acall", "_flows.interception:llm_acall", DERIVED),
    ),
    *_rows(
        LAUNCH,
        "a worker, and for a second any process, takes from queues only what it has the code of",
        (_SYSTEM_DATABASE, "_claim_gate", "_dbos_seam.claiming:gating", DERIVED),
        (
            _SYSTEM_DATABASE,
            "start_queued_partitioned_workflows",
            "_dbos_seam.claiming:sweeping",
            DERIVED,
        ),
        (_SYSTEM_DATABASE, "_name_filter", "_dbos_seam.claiming:filtering"),
    ),
    *_rows(
        REPLAY,
        "a step that is not recorded is not run",
        (
            "crewai_dbos._dbos_seam.instance:system_database()",
            "_check_operation_execution_txn",
            "testing._replay_only:refusing",
        ),
    ),
    *_rows(
        CRASH,
        "the process tells of every moment of an entry, and is killed at one of them",
        (_SYSTEM_DATABASE, "check_operation_execution", "testing.crash._faults:checking"),
        (_SYSTEM_DATABASE, "record_operation_result", "testing.crash._faults:recording"),
        (_SYSTEM_DATABASE, "update_workflow_outcome", "testing.crash._faults:finishing"),
        (
            "crewai_dbos._journal.journal:Journal",
            "_begun",
            "testing.crash._faults:composing",
        ),
        ("crewai_dbos._requests.store:Store", "ask", "testing.crash._faults:asking"),
        ("crewai_dbos._requests.store:Store", "park", "testing.crash._faults:parking"),
        ("httpx:Client", "send", "testing.crash._faults:sending"),
        ("httpx:AsyncClient", "send", "testing.crash._faults:asending"),
    ),
    *_rows(
        CRASH,
        "the process polls often, and an empty queue costs it next to nothing",
        (_SYSTEM_DATABASE, "start_queued_workflows", "_dbos_seam.instance:looking_first"),
    ),
)


def apply(when: str) -> None:
    """Make the changes of a moment that have not been made. Any number of times, from any thread.

    Args:
        when: One of the moments above.
    """
    if when in _over:
        return
    patches = [patch for patch in TABLE if patch.when == when]
    for patch in patches:
        owner = found(patch.owner)
        for each in _with_derived(owner) if patch.how == DERIVED else [owner]:
            _change(patch, each)
    # What a function returns may be another object the next time.
    if not any(patch.owner.endswith("()") for patch in patches):
        _over.add(when)


def apply_to_derived(cls: type) -> None:
    """Change `cls`, which has just been defined, as the classes that it derives from are."""
    for patch in TABLE:
        if patch.how == DERIVED and issubclass(cls, found(patch.owner)):
            _change(patch, cls)


def found(path: str) -> Any:
    """What ``module``, ``module:object`` or ``module:function()`` stands for."""
    module, _, name = path.partition(":")
    value = importlib.import_module(module)
    if not name:
        return value
    value = getattr(value, name.removesuffix("()"))
    return value() if name.endswith("()") else value


def _with_derived(cls: Any) -> Iterator[Any]:
    yield cls
    for derived in cls.__subclasses__():
        yield from _with_derived(derived)


_lock = threading.RLock()
_changed: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""By their owner, the names that have been changed."""
_over: set[str] = set()
"""The moments after which there is nothing left to change."""


def _change(patch: Patch, owner: Any) -> None:
    # Before `_lock` is taken: `_classes` makes classes while it holds a lock of its own, for which
    # `replace` may wait below.
    if patch.how == DERIVED and (
        not inspect.isfunction(vars(owner).get(patch.name)) or is_made_here(owner)
    ):
        return
    replace: Callable[..., Any] = found(f"crewai_dbos.{patch.replacement}")
    with _lock:
        names = _changed.setdefault(owner, set())
        if patch.name in names:
            return
        if patch.how == EVENT:
            sqlalchemy.event.listen(owner, patch.name, replace)
        else:
            # As it lies there: a class method is not bound.
            own = vars(owner)
            original = own[patch.name] if patch.name in own else getattr(owner, patch.name)
            setattr(owner, patch.name, replace(original))
        names.add(patch.name)
