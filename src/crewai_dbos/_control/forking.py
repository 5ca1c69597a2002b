"""A new run that has what another has recorded, less what depends on a place in it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from dbos import Serializer
from sqlalchemy.exc import IntegrityError

from crewai_dbos import _command_lines
from crewai_dbos._command_lines import END, FAILURE
from crewai_dbos._control import edits, places
from crewai_dbos._control.dependence import Dependents
from crewai_dbos._control.forked import check_not_forked
from crewai_dbos._control.made_again import MadeAgain, made_again
from crewai_dbos._control.recorded import Recorded
from crewai_dbos._dbos_seam import stopping
from crewai_dbos._dbos_seam.copying import CopiedRun, copied
from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._dbos_seam.rows import rows_of
from crewai_dbos._dbos_seam.stored_runs import ERROR, has_id, runs
from crewai_dbos._journal import payload as payloads
from crewai_dbos._journal.entry import Entry
from crewai_dbos._stored import names, sealing, work_order
from crewai_dbos.errors import ForkError, RunConflictError, RunNotFoundError, SealedError


@dataclass(frozen=True)
class Wanted:
    """A fork that somebody asks for.

    Attributes:
        at: The places that are made again, with what depends on them.
        inputs: Of the kickoff, in place of those that the run had.
        edit: By place, the result that it is to have.
        version: The application version that takes it; None for the newest.
        by: Who asks.
        fork_id: Of the fork; None for a new one.
        even_if_forked: Also of a run that another fork goes on for.
    """

    at: tuple[str, ...]
    inputs: Mapping[str, Any] | None
    edit: Mapping[str, Any]
    version: str | None
    by: str
    fork_id: str | None = None
    even_if_forked: bool = False


def fork(database: Database, run_id: str, wanted: Wanted, serializer: Serializer | None) -> str:
    """Make a fork, all or nothing.

    Returns:
        Its id.

    Raises:
        RunNotFoundError: There is no such run.
        ForkError: It can't be forked so.
        SealedError: What is needed of it is encrypted.
        RunConflictError: The id of the fork is that of another run.
        RunForkedError: Another fork goes on for the run.
    """
    try:
        return _made(database, run_id, wanted, serializer)
    except IntegrityError:
        if wanted.fork_id is None:
            raise
        # Somebody has made it at the same time.
        return _made(database, run_id, wanted, serializer)


def left_out(
    database: Database,
    run_id: str,
    at: tuple[str, ...],
    edit: Collection[str],
    serializer: Serializer | None,
) -> MadeAgain:
    """What a fork of a run would make again.

    Args:
        database: Where the run is.
        run_id: Which.
        at: As of `Wanted`.
        edit: As of `Wanted`, or the places alone: values are looked at if there are any.
        serializer: That of the application.

    Raises:
        RunNotFoundError, ForkError, SealedError: As of `fork`.
    """
    with database.engine.connect() as connection:
        found = runs(database, connection, [has_id(database, [run_id])])
        if not found:
            raise RunNotFoundError(run_id)
        _check_kind(run_id, found[0].name)
        _check_failed(run_id, found[0].status, at)
        recorded = Recorded(run_id, rows_of(database.system, connection, run_id), serializer)
    if not at and not edit:
        return made_again(recorded.entries, len(recorded.outside))
    plan = _Plan(recorded, serializer)
    values = edit if isinstance(edit, Mapping) else dict.fromkeys(edit)
    given = plan.leave_out(at, values)
    if isinstance(edit, Mapping):
        plan.changes(given, "")
    gone = plan.dependents.entries
    given_tasks = tuple(f"{each.name}/" for each in given if each.is_of_task)  # none is begun
    made = (e for e in recorded.entries if e.name in gone and not e.name.startswith(given_tasks))
    return made_again(made, len(plan.dependents.steps))


def _check_kind(run_id: str, workflow: str) -> None:
    if workflow == names.BATCH_WORKFLOW:
        raise ForkError(
            f"Run {run_id!r} is a batch, which only puts its items on a queue. Fork one of "
            f"these: {names.item(run_id, 1)!r}, ..."
        )


def _check_failed(run_id: str, status: str, at: tuple[str, ...]) -> None:
    if FAILURE in at and status != ERROR:
        raise ForkError(
            f"Run {run_id!r} has not failed, so it is forked at no {FAILURE!r}. "
            f"{_command_lines.show(run_id)} says how it stands."
        )


def _made(database: Database, run_id: str, wanted: Wanted, serializer: Serializer | None) -> str:
    by_place = bool(wanted.at or wanted.edit)
    if by_place and wanted.inputs is not None:
        raise ForkError(
            "Other inputs contradict what a fork keeps of the run, which was made with those that "
            "it had. Fork it from the beginning: inputs without at and edit."
        )
    fork_id = wanted.fork_id or str(uuid4())
    with database.writing() as connection:
        if wanted.fork_id is not None:
            for there in runs(database, connection, [has_id(database, [fork_id])]):
                if there.forked_from == run_id:
                    return fork_id
                raise RunConflictError(f"The id {fork_id!r} is that of another run.")
        # Locked: two who fork at the same time come one after the other.
        for run in stopping.runs_to_change(database, connection, run_id):
            if not wanted.even_if_forked:
                check_not_forked(database, connection, run, "fork")
            _check_failed(run_id, run.status, wanted.at)
        made = copied(database, connection, run_id, fork_id, steps=by_place, version=wanted.version)
        if made is None:
            raise RunNotFoundError(run_id)
        _check_kind(run_id, made.workflow())
        edited: list[str] = []
        if by_place:
            plan = _Plan(Recorded(run_id, made.rows(), serializer), serializer)
            edited = _carried_out(plan, made, wanted)
        elif wanted.inputs is not None:
            made.set_order(_with_inputs(run_id, made.order(), wanted.inputs, serializer))
        attributes = made.attributes()
        for other in (names.ATTRIBUTE, names.HANDED_ON_ATTRIBUTE):  # of what became of the run
            attributes.pop(other, None)
        at = list(wanted.at) if len(wanted.at) > 1 else next(iter(wanted.at), None)
        note = {"by": wanted.by, "at": at, "edited": edited, "ms": _now_ms()}
        made.set_attributes({**attributes, names.FORK_ATTRIBUTE: {"of": run_id, **note}})
    return fork_id


@dataclass
class _Edit:
    """A result that is given.

    Attributes:
        name: The entry that gets it; of a task, which has none, the place.
        asked: How it was called.
        value: What is given.
    """

    name: str
    asked: str
    value: Any

    @property
    def is_of_task(self) -> bool:
        return self.name.rpartition("/")[2].startswith("task:")


def _carried_out(plan: _Plan, made: CopiedRun, wanted: Wanted) -> list[str]:
    """Leave out and change what is wanted. Returns the names of what is edited."""
    given = plan.leave_out(wanted.at, wanted.edit)
    changes = plan.changes(given, wanted.by)
    dependents = plan.dependents
    made.leave_out([*plan.recorded.steps_of(dependents.entries), *dependents.steps])
    for each, (entry_name, step_id, stored) in zip(given, changes, strict=True):
        if each.is_of_task:
            made.add(step_id, entry_name, stored)
        else:
            made.change(step_id, stored)
    return [entry_name for entry_name, _, _ in changes]


@dataclass
class _Plan:
    """What of a run goes in a fork, and what changes.

    Attributes:
        recorded: What is in the run.
        serializer: That of the application.
        dependents: What goes.
    """

    recorded: Recorded
    serializer: Serializer | None
    dependents: Dependents = field(init=False)

    def __post_init__(self) -> None:
        self.dependents = Dependents(self.recorded)

    def leave_out(self, at: tuple[str, ...], edit: Mapping[str, Any]) -> list[_Edit]:
        """Find what goes. Returns what is given, by `edit`."""
        given = [_Edit(self._edited_name(place), place, value) for place, value in edit.items()]
        if twice := {each.name for each in given if [e.name for e in given].count(each.name) > 1}:
            raise ForkError(f"{', '.join(sorted(twice))} is edited twice.")
        for place in at:
            self._go_back_to(place, given)
        for each in given:
            if each.is_of_task:
                self.dependents.drop_inside(each.name)
            self.dependents.drop_after(each.name)
        return given

    def changes(self, given: list[_Edit], by: str) -> list[tuple[str, int, Any]]:
        """Of each, the name, step id and payload of the entry that has what is given."""
        return [self._changed(each, by) for each in given]

    def _go_back_to(self, at: str, given: list[_Edit]) -> None:
        if at == END:
            return
        place = places.found(self.recorded, at)
        for each in given:
            if each.name == place or _is_end_of(each.name, place):
                return  # it is not made again: this is its result
            if each.name.startswith(f"{place}/"):
                raise ForkError(
                    f"{each.asked!r} is in {place}, which the fork makes again, so an edit of it "
                    "would be lost. Leave at= out: what depends on an edit is made again anyway."
                )
        self.dependents.drop(place)

    def _edited_name(self, asked: str) -> str:
        """The entry or task that is edited.

        Raises:
            ForkError: There is none, or it is nothing that somebody could give.
        """
        place = places.found(self.recorded, asked)
        last = place.rpartition("/")[2]
        if last.startswith("task:"):
            return place
        name = names.numbered(place, names.METHOD_END, 1) if last.startswith("method:") else place
        entry = self.recorded.by_name.get(name)
        if entry is None and last.startswith("method:"):
            raise ForkError(f"{place} has not ended, so there is no result of it to edit.")
        if entry is None or not entry.is_readable or not _is_editable(entry):
            kind = f"{entry.kind} entry" if entry is not None and entry.kind else "place"
            raise ForkError(
                f"The {kind} {place} can't be edited. Edit a task, a method, an answer of an LLM, "
                "the result of a tool or a step, or what a person has answered."
            )
        return name

    def _changed(self, each: _Edit, by: str) -> tuple[str, int, Any]:
        """Name, step id and payload of the entry that has the result that is given."""
        mark = {"edited": {"by": by, "ms": _now_ms()}}
        if each.is_of_task:
            entry_name = names.numbered(each.name, names.EDITED, 1)
            text = edits.as_text(each.asked, each.value)
            content = {"v": names.ENTRY_VERSION, "kind": names.EDITED, "result": text}
            inside = self.recorded.item(each.name).entries
            readable = (entry for entry in (*inside, *self.recorded.entries) if entry.is_readable)
            stored = self._stored({**content, **mark}, next(readable, None))
            return entry_name, inside[0].step_id, stored
        if each.name in self.dependents.entries:
            raise ForkError(
                f"{each.asked!r} depends on what else is edited or made again, so an edit of it "
                "would be lost. Edit the one or the other."
            )
        entry = self.recorded.by_name[each.name]
        content = dict(self._content(entry))
        kind = entry.kind
        return (
            entry.name,
            entry.step_id,
            self._stored(
                {**edits.edited(each.asked, kind, content, each.value, by), **mark}, entry
            ),
        )

    def _content(self, entry: Entry) -> Mapping[str, Any]:
        found = self.recorded.content(entry.name)
        if found is None:
            raise ForkError(f"{entry.name} can't be read, so it can't be edited.")
        return found

    def _stored(self, content: dict[str, Any], beside: Entry | None) -> Any:
        """`content` as the application stores it, which has stored `beside`."""
        if beside is None or "sealed" not in beside.stored:
            return content
        clear = {name: item for name, item in content.items() if name != "key"}
        try:
            payloads.opened(beside.stored, self.serializer)
        except SealedError as error:
            raise SealedError(
                f"An edit of run {self.recorded.run_id!r} has to be encrypted as the run is: "
                f"{error}. Pass it on: Control(url, serializer=...)"
            ) from None
        return payloads.sealed(clear, beside.key_id, self.serializer)


def _is_editable(entry: Entry) -> bool:
    return entry.kind in edits.EDITABLE and entry.what != names.FEEDBACK


def _is_end_of(name: str, place: str) -> bool:
    return name == names.numbered(place, names.METHOD_END, 1)


def _with_inputs(
    run_id: str, order: Any, inputs: Mapping[str, Any], serializer: Serializer | None
) -> Any:
    """The order of a run with other inputs."""
    if not work_order.is_order(order) or not {"crew", "flow"} & set(order):
        raise ForkError(f"Run {run_id!r} is none of a crew or a flow, so it has no inputs.")
    try:
        opened = work_order.opened(order, serializer)
    except SealedError as error:
        raise SealedError(
            f"The inputs of run {run_id!r} are encrypted: {error}. Pass it on: "
            "Control(url, serializer=...)"
        ) from None
    if "inputs" not in opened:
        raise ForkError(f"Run {run_id!r} is a turn of a conversation, which has no inputs.")
    changed = work_order.with_inputs(opened, inputs)
    is_sealed = sealing.is_sealed(order.get("sealed"))
    return work_order.sealed(changed, serializer) if is_sealed else changed


def _now_ms() -> int:
    return int(time.time() * 1000)
