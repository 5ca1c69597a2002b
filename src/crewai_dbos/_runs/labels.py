"""What a run is a run of, said in the attributes of its workflow, where DBOS's own tools show it.

All runs of crews have one workflow name, as DBOS hashes each registered workflow into the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from crewai_dbos._dbos_seam.context import noted_with_the_run
from crewai_dbos._stored import names, work_order


def labelled(order: Mapping[str, Any]) -> AbstractContextManager[None]:
    """In the block the run of `order` is started; the user's own attributes are kept."""
    label = work_order.label(order)
    return nullcontext() if label is None else noted_with_the_run({names.RUN_ATTRIBUTE: label})
