"""The trace that a run belongs to, as DBOS keeps it with the run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from dbos import DBOS
from dbos._context import (
    OTEL_CARRIER_ATTRIBUTE,
    PropagateOtelContext,
    extract_trace_context,
    get_workflow_start_options,
)

from crewai_dbos._dbos_seam.context import detached

if TYPE_CHECKING:
    from opentelemetry.context import Context


def carried(context: Context | None = None) -> AbstractContextManager[Any]:
    """Runs that are started in the block belong to a trace, also on recovery.

    Unless the user has said to which they belong.

    Args:
        context: Whose trace; by default the one that is here.
    """
    if get_workflow_start_options().otel_carrier is not None:
        return nullcontext()
    return PropagateOtelContext(context)


def trace_of(run_id: str) -> Context | None:
    """The context that the run was started in, if it was kept with it."""
    status = detached(DBOS.get_workflow_status, run_id)
    carrier = ((status.attributes if status else None) or {}).get(OTEL_CARRIER_ATTRIBUTE)
    return extract_trace_context(carrier) if isinstance(carrier, dict) else None
