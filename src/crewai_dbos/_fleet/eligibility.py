"""Which runs a worker takes: those that it has the code of. The others wait for one that has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from crewai_dbos._dbos_seam import claiming
from crewai_dbos._dbos_seam.claiming import Condition
from crewai_dbos._dbos_seam.database import ENQUEUED, Database
from crewai_dbos._dbos_seam.stored_runs import attribute_among
from crewai_dbos._fleet.leases import Definitions, Holder
from crewai_dbos._stored import names
from crewai_dbos._stored.forms import is_storable

_AT_MOST = 50
"""So many kinds of runs are told of that a worker leaves to others."""


@dataclass(frozen=True)
class Left:
    """Runs on queues that a worker leaves to others.

    Attributes:
        noun, name: What they are of: ``flow`` and its definition, or ``workflow`` and its name.
        count: How many there are.
    """

    noun: str
    name: str
    count: int


class Claims:
    """What a worker takes.

    Args:
        definitions: Returns what it has.
    """

    def __init__(self, definitions: Callable[[], Definitions]) -> None:
        self._definitions = definitions

    def fit(self, runs: sa.FromClause, on_sqlite: bool) -> Condition:
        """Whether the worker has the code of a run, as far as its row says."""
        definitions = self._definitions()
        told = _definition(runs, on_sqlite)
        of_ours = [
            sa.and_(
                runs.c.name.in_(workflows),
                _is_among(told, definitions.get(noun, ()), on_sqlite),
            )
            for noun, workflows in names.WORKFLOWS_OF.items()
        ]
        # A row that does not say its definition is taken, and given back with it if need be.
        known = sa.or_(told.is_(None), runs.c.name.not_in(names.WORKFLOWS), *of_ours)
        instance = runs.c.class_name + "/" + runs.c.config_name
        is_there = sa.or_(
            runs.c.config_name.is_(None), _is_among(instance, claiming.instances(), on_sqlite)
        )
        return sa.and_(_is_among(runs.c.name, claiming.workflows(), on_sqlite), is_there, known)

    def left(self, database: Database, holder: Holder) -> list[Left]:
        """What waits on queues of the application and version, and is not taken here."""
        runs = database.runs
        told = _definition(runs, database.is_sqlite)
        application, version = runs.c.application_name, runs.c.application_version
        query = (
            sa.select(runs.c.name, told, sa.func.count())
            .where(runs.c.status == ENQUEUED, ~self.fit(runs, database.is_sqlite))
            .where(sa.or_(version == holder.version, version.is_(None)))
            .where(sa.or_(application == holder.application, application.is_(None)))
            .group_by(runs.c.name, told)
            .limit(_AT_MOST)
        )
        with database.engine.connect() as connection:
            return [_left(*row) for row in connection.execute(query)]


def _definition(runs: sa.FromClause, on_sqlite: bool) -> sa.ColumnElement[Any]:
    """What a run says it is a run of; NULL if it does not say it."""
    return attribute_among(runs, names.RUN_ATTRIBUTE, "definition", on_sqlite=on_sqlite)


def _is_among(column: Any, values: Iterable[str], on_sqlite: bool) -> Condition:
    """As ``IN``, with one parameter for any number of values."""
    storable = [value for value in values if is_storable(value)]
    if on_sqlite:
        each = sa.func.json_each(json.dumps(storable)).table_valued("value")
        found: Condition = column.in_(sa.select(each.c.value))
        return found
    given = sa.literal(storable, ARRAY(sa.Text))
    same: Condition = column == sa.any_(given)
    return same


def _left(workflow: str, definition: Any, count: int) -> Left:
    for noun, workflows in names.WORKFLOWS_OF.items():
        if workflow in workflows and definition is not None:
            return Left(noun, str(definition), count)
    return Left("workflow", workflow, count)
