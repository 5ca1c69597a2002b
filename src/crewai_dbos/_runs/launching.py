"""What a launch of DBOS does more in a process that has definitions."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa

from crewai_dbos import _patches
from crewai_dbos._dbos_seam.claiming import looking_soon
from crewai_dbos._dbos_seam.instance import is_constructed, is_launched
from crewai_dbos._fleet.eligibility import Claims
from crewai_dbos._runs import live_processes
from crewai_dbos._runs.registry import definitions
from crewai_dbos._stored import names


def _ours(runs: sa.FromClause, on_sqlite: bool) -> sa.ColumnElement[bool]:
    """Whether a row is of a run of a definition that is here.

    That a workflow of the user's is here says nothing of what its code needs beside it, which the
    program may make after its launch.
    """
    return sa.and_(runs.c.name.in_(names.WORKFLOWS), Claims(definitions).fit(runs, on_sqlite))


def launching(launch: Any) -> Any:
    """`DBOS.launch`, which goes on at once with runs whose definition is here.

    It says if another process recovers the same runs.
    """

    @functools.wraps(launch.__func__)
    def launched(cls: Any) -> None:
        if is_launched() or not is_constructed():
            launch.__func__(cls)
        else:
            live_processes.withdraw()
            _patches.apply(_patches.LAUNCH)
            with looking_soon(_ours):
                launch.__func__(cls)
        live_processes.look()

    return classmethod(launched)
