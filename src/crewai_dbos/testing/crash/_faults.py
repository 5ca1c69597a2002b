"""In the process that is to die: what it does at every moment of every entry, and the kill.

Everything is real but the moment. DBOS's own reads and writes are wrapped, and what it calls is
told to a log that outlives the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import httpx

from crewai_dbos import _patches
from crewai_dbos._dbos_seam import steps
from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._flows.state.tracking import current as current_method
from crewai_dbos._journal.open_calls import open_call, open_group
from crewai_dbos._leases import RunVar
from crewai_dbos._stored import names
from crewai_dbos.testing.crash._scripted_model import ScriptedModel
from crewai_dbos.testing.effects import EffectLog
from crewai_dbos.testing.request import Request

RESULT = "result"
"""Stands for the row that is not a step: the run's own result."""

BEFORE, ASKED, PARKED, DURING, UNRECORDED, AFTER = MOMENTS = (
    "before",
    "asked",
    "parked",
    "during",
    "unrecorded",
    "after",
)
"""No record was found; a person is asked; the run that asks is left to its row; the call is at
work; it has an outcome; that is committed."""

_ENTRY_HEADER = "x-crewai-dbos-entry"

watchers: list[Callable[[str, str], None]] = []
"""Called with entry and moment at every moment of every entry, after `install`."""


@dataclass(frozen=True)
class _Row:
    """A row of the journal.

    Attributes:
        entry: What it is called in every run. Steps of the user's are counted, as they come.
        row: What it is called in every process of this run.
    """

    entry: str
    row: str


_NONE = _Row("", "")
_running: RunVar[_Row] = RunVar("running", default=_NONE)


def install(
    run_id: str, log: str = "", entry: str = "", moment: str = "", model_url: str = ""
) -> None:
    """Tell `log` of every moment; send this process SIGKILL at `moment` of `entry`.

    Args:
        run_id: The run's workflow id.
        log: A file to append to, in the form of an `EffectLog`.
        entry: The name of an entry: of a step that is not ours with ``#`` and which one it is,
            of a child workflow's with the child's id before it.
        moment: One of `MOMENTS`.
        model_url: The server that will see, and may kill in, a request of an entry.
    """
    global _faults
    _faults = _Faults(run_id, log, (entry, moment), ScriptedModel(model_url))
    _patches.apply(_patches.CRASH)
    if watching not in steps.watchers:
        steps.watchers.append(watching)
    EffectLog.report = _reported  # type: ignore[method-assign]


class _Faults:
    """What is told, and where the process is killed: see `install`."""

    def __init__(self, run_id: str, log: str, fatal: tuple[str, str], model: ScriptedModel) -> None:
        self.run_id = run_id
        self.model = model
        self.entries = _Entries(run_id)
        self.begun: set[tuple[str, str]] = set()  # calls made up of others, by run and name
        self._log = log
        self._fatal = fatal

    def at(self, row: _Row, now: str) -> None:
        self.tell(row, now)
        self.strike(row, now)

    def tell(self, row: _Row, now: str, **how: str) -> None:
        if self._log:
            _report(EffectLog(self._log), now, entry=row.entry, row=row.row, **how)

    def strike(self, row: _Row, now: str) -> None:
        for watch in watchers:
            watch(row.entry, now)
        if (row.entry, now) == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def now(self) -> _Row:
        """The row whose call is at work here."""
        call, context = open_call(), current_context()
        if call is None and context is not None and context.is_step():
            return _running.get()
        call = call or open_group()
        if call is not None:
            return self.entries.of(call.run_id, call.name)
        method = current_method()
        if method is None:
            return _NONE
        return self.entries.of(self.run_id, f"{method.path}/{names.METHOD_END}#1")

    def named(self, request: httpx.Request) -> httpx.Request:
        """`request`, which says which entry it is of if a script answers it."""
        row = self.now()
        if self.model.takes(request):
            request.headers[_ENTRY_HEADER] = quote(row.entry)  # a role may be in any language
            if row is not _NONE and request.url.path.endswith("/chat/completions"):
                # The server strikes, because only there is the request made and not answered.
                self.tell(row, DURING, by="model")
        return request


def refused() -> str:
    """What an LLM of this process wanted to ask that the script can't answer, in words."""
    return _faults.model.refused


def tells_of_memories(name: str) -> bool:
    """Whether the entry `name` is named by ids and times of memories, which are new in each run.

    A save that was cut short, done again, finds what it had written, and so do later searches.
    """
    return names.inside_save(name) or f"/{names.MEMORY_LLM}(" in name


def entry_of(request: Request) -> str:
    """The entry that a request at the script's server is of; "" if of none."""
    return unquote(request.headers.get(_ENTRY_HEADER, ""))


_faults: _Faults
_waiting: dict[str, _Row] = {}
_report = EffectLog.report


def _reported(self: EffectLog, kind: str, /, **fields: Any) -> None:
    row = _faults.now()
    if row is not _NONE:
        # Before the effect: a kill for another call may come at any time, and an effect whose
        # call is not known to have begun would count as one that happened again.
        _faults.tell(row, DURING, by="effect")
    _report(self, kind, **fields, entry=row.row)
    if row is not _NONE:
        _faults.strike(row, DURING)


# What stands in place of methods of DBOS and of httpx.


def checking(check: Callable[..., Any]) -> Callable[..., Any]:
    """`SystemDatabase.check_operation_execution`: before a step, which may have a record."""

    def checked(self: Any, workflow_id: str, function_id: int, name: str, **options: Any) -> Any:
        found = check(self, workflow_id, function_id, name, **options)
        row = _faults.entries.row(workflow_id, function_id, name)
        if found is None:
            _faults.at(row, BEFORE)
        _running.set(row)
        return found

    return checked


def watching(moment: str, run_id: str, step_id: int, name: str) -> None:
    """A step of ours, which is known to have no record."""
    row = _faults.entries.row(run_id, step_id, name)
    if moment != steps.BEGINS or (run_id, name) not in _faults.begun:
        _faults.at(row, _MOMENTS[moment])
    if moment == steps.BEGINS:
        _running.set(row)


def composing(compose: Callable[..., Any]) -> Callable[..., Any]:
    """`Journal._begun`: a call begins whose row comes after what it calls."""

    def composed(self: Any, name: str, call: Any) -> Any:
        _faults.begun.add((self.run_id, name))
        _faults.at(_faults.entries.of(self.run_id, name), BEFORE)
        return compose(self, name, call)

    return composed


_MOMENTS = {steps.BEGINS: BEFORE, steps.ENDED: UNRECORDED, steps.RECORDED: AFTER}


def recording(record: Callable[..., Any]) -> Callable[..., Any]:
    """`SystemDatabase.record_operation_result`: a step of the user's has an outcome."""

    def recorded(self: Any, result: Any, **options: Any) -> None:
        place = (result["workflow_uuid"], result["function_id"], result["function_name"])
        row = _faults.entries.row(*place)
        _faults.at(row, UNRECORDED)
        record(self, result, **options)
        _faults.at(row, AFTER)

    return recorded


def asking(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`Store.ask`: a request is in the database."""

    def asked(self: Any, run_id: str, name: str, *args: Any, **options: Any) -> Any:
        found = ask(self, run_id, name, *args, **options)
        row = _faults.entries.of(run_id, name)
        _waiting[found.request_id] = row
        _faults.at(row, ASKED)
        return found

    return asked


def parking(park: Callable[..., Any]) -> Callable[..., Any]:
    """`Store.park`: a run is left to its row."""

    def parked(self: Any, run_id: str, xid: str, request_ids: Iterable[str], queue: str) -> Any:
        waiting = list(request_ids)
        is_parked = park(self, run_id, xid, waiting, queue)
        if is_parked:
            for request_id in waiting:
                _faults.at(_waiting[request_id], PARKED)
        return is_parked

    return parked


def finishing(finish: Callable[..., Any]) -> Callable[..., Any]:
    """`SystemDatabase.update_workflow_outcome`: a workflow has one."""

    def finished(self: Any, workflow_id: str, *args: Any, **options: Any) -> Any:
        row = _faults.entries.of(workflow_id, RESULT)
        _faults.at(row, UNRECORDED)
        updated = finish(self, workflow_id, *args, **options)
        _faults.at(row, AFTER)
        return updated

    return finished


def sending(send: Callable[..., Any]) -> Callable[..., Any]:
    """`httpx.Client.send`."""

    def sent(self: Any, request: httpx.Request, **options: Any) -> Any:
        return send(self, _faults.named(request), **options)

    return sent


def asending(asend: Callable[..., Any]) -> Callable[..., Any]:
    """`httpx.AsyncClient.send`."""

    async def asent(self: Any, request: httpx.Request, **options: Any) -> Any:
        return await asend(self, _faults.named(request), **options)

    return asent


class _Entries:
    """Finds the rows' names."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._contents: dict[str, dict[str, int]] = defaultdict(dict)

    def row(self, workflow_id: str, function_id: int, name: str) -> _Row:
        if names.is_ours(name):
            return self.of(workflow_id, name)
        with self._lock:
            numbers = self._numbers[workflow_id, name]
            number = numbers.setdefault(function_id, len(numbers) + 1)
        # The journal pins such a step, so that its id is the same when the run is recovered.
        row = self.of(workflow_id, f"{name}@{function_id}").row
        return _Row(self.of(workflow_id, f"{name}#{number}").entry, row)

    def of(self, workflow_id: str, name: str) -> _Row:
        child = workflow_id.removeprefix(self._run_id).lstrip("/")
        name = f"{child}: {name}" if child else name
        return _Row(self._in_every_run(name) if tells_of_memories(name) else name, name)

    def _in_every_run(self, name: str) -> str:
        what = names.without_digest(name.rpartition("#")[0])
        with self._lock:
            contents = self._contents[what]
            return f"{what}#{contents.setdefault(name, len(contents) + 1)}"
