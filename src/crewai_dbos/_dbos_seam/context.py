"""The position in a workflow that DBOS sees."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import Context
from typing import Any, TypeVar

from dbos import SetWorkflowAttributes
from dbos._context import (
    DBOSContext,
    _dbos_context_var,
    get_local_dbos_context,
    get_workflow_start_options,
)

from crewai_dbos._leases import Lease, lent
from crewai_dbos._threads import off_the_loop

__all__ = [
    "DBOSContext",
    "assigned_workflow_id",
    "current_context",
    "detached",
    "noted_with_the_run",
    "open_workflow",
    "partition_key",
    "using_context",
]

T = TypeVar("T")


def current_context() -> DBOSContext | None:
    return get_local_dbos_context()


def partition_key() -> str | None:
    """That of `SetEnqueueOptions` around what is done here."""
    return get_workflow_start_options().queue_partition_key


def open_workflow() -> DBOSContext:
    """The position in the workflow whose body is running here."""
    context = get_local_dbos_context()
    if context is None or not context.is_within_workflow():
        raise RuntimeError("This is called in the body of a DBOS workflow only")
    return context


def assigned_workflow_id() -> str | None:
    """The id of the enclosing ``with SetWorkflowID(...)`` that no workflow has taken yet."""
    assigned = get_workflow_start_options().assigned_id
    return None if assigned is None or assigned.consumed else assigned.workflow_id


def noted_with_the_run(attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """A run that is started in the block has these attributes too, beside those of the user."""
    if not attributes:
        return nullcontext()
    others = get_workflow_start_options().workflow_attributes or {}
    return SetWorkflowAttributes({**others, **attributes})


@contextmanager
def using_context(context: DBOSContext | None) -> Iterator[None]:
    """Run a block as the workflow position that `context` stands for."""
    before = _dbos_context_var.get()
    _dbos_context_var.set(context)
    try:
        yield
    finally:
        _dbos_context_var.set(before)


def detached(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `function` outside every workflow, so that DBOS does not record it as a step."""
    return off_the_loop(lambda: contextvars.Context().run(function, *args, **kwargs))


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
