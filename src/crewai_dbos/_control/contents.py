"""What a run was given and has returned, and what a call in it has returned: plain JSON to look at.

Nothing is built again: a value of a class is shown as its fields, a date as its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from crewai_dbos._control import texts
from crewai_dbos._dbos_seam import stored_contents
from crewai_dbos._dbos_seam.database import Database
from crewai_dbos._dbos_seam.rows import RecordedRow, as_json
from crewai_dbos._journal.entry import read_entry
from crewai_dbos._stored import work_order
from crewai_dbos._stored.sealing import Open

_OF_ORDERS = ("inputs", "messages", "turn", "task", "order")
"""Fields of an order in which a user's own data are."""


@dataclass(frozen=True)
class Content:
    """What a call has returned.

    Attributes:
        path: Its name in the journal.
        kind: ``llm``, ``tool``, ``step``, ...
        result: What it returned, as plain JSON; None if it has failed.
        error: The class and message of the error that it ended with.
        model: The model that was asked, if one was.
        edited_by: Who has put this result in place of what was recorded, in a fork.

    Example::

        for node in control.run(run_id).children:
            if (content := control.content_of(run_id, node.path)) is not None:
                print(content.kind, content.result)
    """

    path: str
    kind: str
    result: Any = None
    error: str | None = None
    model: str | None = None
    edited_by: str | None = None


def inputs_of(database: Database, run_id: str, opened: Open) -> Any:
    """What a run of a definition was asked to do, by field; None of another workflow."""
    with database.engine.connect() as connection:
        order = stored_contents.order_of(database, connection, run_id)
    if not isinstance(order, Mapping) or not work_order.is_order(order):
        return None
    content = opened(order["sealed"]) if "sealed" in order else order
    if not isinstance(content, Mapping):
        return None
    found = {name: plain(content[name]) for name in _OF_ORDERS if name in content}
    return found.get("inputs", found)


def result_of(database: Database, run_id: str, opened: Open) -> Any:
    """What a run of a definition has returned; None if nothing, or not yet."""
    with database.engine.connect() as connection:
        text = stored_contents.outputs(database, connection, [run_id]).get(run_id, "null")
    return plain(opened(as_json(text)))


def content_of(database: Database, run_id: str, path: str, opened: Open) -> Content | None:
    """What the call of this name in the journal of a run has returned.

    Raises:
        SealedError: It is encrypted, and `opened` can't read it.
    """
    with database.engine.connect() as connection:
        step = _step(database, connection, run_id, path)
    entry = None if step is None else read_entry(RecordedRow(step.step_id, step.name, _of(step)))
    if entry is None or not entry.is_readable:
        return None
    stored: Mapping[str, Any] = entry.stored
    if "sealed" in stored:
        sealed = opened(stored["sealed"])
        stored = {**stored, **sealed} if isinstance(sealed, Mapping) else stored
    edited = stored.get("edited")
    return Content(
        path=path,
        kind=entry.kind,
        result=plain(stored.get("result")),
        error=texts.of_json(stored.get("error")),
        model=stored.get("model"),
        edited_by=edited.get("by") if isinstance(edited, Mapping) else None,
    )


def _step(
    database: Database, connection: sa.Connection, run_id: str, path: str
) -> stored_contents.StoredStep | None:
    return next(
        (s for s in stored_contents.steps(database, connection, run_id, path) if s.name == path),
        None,
    )


def _of(step: stored_contents.StoredStep) -> Any:
    return as_json(step.output or "null")


def plain(data: Any) -> Any:
    """JSON data with the forms of `codec` as what they stand for, for people."""
    if isinstance(data, list):
        return [plain(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    tag = next(iter(data), "")
    if not tag.startswith("$"):
        return {name: plain(item) for name, item in data.items()}
    if isinstance(data.get("fields"), Mapping):
        extra = data.get("extra")
        return plain({**data["fields"], **(extra if isinstance(extra, Mapping) else {})})
    if tag == "$map" and isinstance(data[tag], list):
        pairs = [pair for pair in data[tag] if isinstance(pair, list) and len(pair) == 2]
        return {_key(plain(key)): plain(item) for key, item in pairs}
    if tag == "$derived":
        return {name: plain(item) for name, item in data.items() if name != tag}
    return plain(data["value"] if "value" in data else data[tag])


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, default=str)
