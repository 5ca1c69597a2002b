"""Context variables of the user's: stored with a run, and set where it is executed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from crewai_dbos._setting import setting
from crewai_dbos._stored import codec
from crewai_dbos._stored.forms import Json
from crewai_dbos.errors import DefinitionError, UnstorableInputError, UnstorableValueError

logger = logging.getLogger("crewai_dbos")

_UNSET: Any = object()

_variables: dict[str, ContextVar[Any]] = {}


def store_context(*variables: ContextVar[Any]) -> None:
    """Have the values of context variables stored with every run, and set again on recovery.

    A run that is executed by another process, or later, finds in them what whoever began it had
    set: the tenant, the id of a trace. Name them where the module is imported, in every process.
    Variables without a value are not stored. A fork has those of its original. In a workflow of
    your own a run has what that workflow has set.

    Args:
        variables: `contextvars.ContextVar` objects. Their names are stored: keep them over
            releases.

    Raises:
        TypeError: Something else was given.
        DefinitionError: Two have one name.

    Example::

        from contextvars import ContextVar

        from crewai_dbos import store_context

        tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
        store_context(tenant)
    """
    for variable in variables:
        if not isinstance(variable, ContextVar):
            raise TypeError(f"store_context takes ContextVars, not {type(variable).__name__}")
        if _variables.get(variable.name, variable) is not variable:
            raise DefinitionError(
                f"Two context variables are called {variable.name!r}, by which their values are "
                "stored. Give each a name of its own."
            )
        _variables[variable.name] = variable


def encoded() -> Json | None:
    """The values that are set here; None if there are none.

    Raises:
        UnstorableInputError: One has no JSON form.
    """
    values = {name: variable.get(_UNSET) for name, variable in _variables.items()}
    values = {name: value for name, value in values.items() if value is not _UNSET}
    for name, value in values.items():
        try:
            codec.encode(value)
        except (UnstorableValueError, RecursionError) as error:
            raise UnstorableInputError(
                f"The value of the context variable {name!r} can't be stored with the run: {error}"
            ) from None
    return codec.encode(values) if values else None


@contextmanager
def restored(values: Mapping[str, Any]) -> Iterator[None]:
    """In the block the variables have the values that a run was begun with."""
    with ExitStack() as block:
        for name, value in values.items():
            variable = _variables.get(name)
            if variable is None:
                logger.warning(
                    "The run was begun with a value of the context variable %r, which "
                    "crewai_dbos.store_context does not name in this process: it is not set.",
                    name,
                )
            else:
                block.enter_context(setting(variable, value))
        yield
