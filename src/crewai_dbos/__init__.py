"""crewAI work that survives the process, on DBOS Transact.

Importing this package registers its workflows with DBOS. crewAI itself, which takes seconds to
import, is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crewai_dbos import _sqlite_clock
from crewai_dbos._runs import workflows as _workflows  # noqa: F401
from crewai_dbos._secrets import known as _known

if TYPE_CHECKING:
    from crewai_dbos._agents.executor import DBOSAgentExecutor as DBOSAgentExecutor
    from crewai_dbos._errors import BatchError as BatchError
    from crewai_dbos._errors import ConcurrentRunError as ConcurrentRunError
    from crewai_dbos._errors import CrewaiDbosError as CrewaiDbosError
    from crewai_dbos._errors import DefinitionError as DefinitionError
    from crewai_dbos._errors import DriftError as DriftError
    from crewai_dbos._errors import JournalCorruptError as JournalCorruptError
    from crewai_dbos._errors import LostContextError as LostContextError
    from crewai_dbos._errors import RecordedError as RecordedError
    from crewai_dbos._errors import RunConflictError as RunConflictError
    from crewai_dbos._errors import SealedError as SealedError
    from crewai_dbos._errors import UnstorableInputError as UnstorableInputError
    from crewai_dbos._errors import UnstorableValueError as UnstorableValueError
    from crewai_dbos._journal.config import StepConfig as StepConfig
    from crewai_dbos._objects.llm import DBOSLLM as DBOSLLM
    from crewai_dbos._objects.tools import idempotency_key as idempotency_key
    from crewai_dbos._runs.handle import RunHandle as RunHandle
    from crewai_dbos._stored.hidden import store_hidden as store_hidden
    from crewai_dbos._stored.modules import allow_modules as allow_modules
    from crewai_dbos.agent import DBOSAgent as DBOSAgent
    from crewai_dbos.crew import DBOSCrew as DBOSCrew
    from crewai_dbos.flow import DBOSFlow as DBOSFlow
    from crewai_dbos.values import now as now
    from crewai_dbos.values import random as random
    from crewai_dbos.values import step as step
    from crewai_dbos.values import uuid4 as uuid4

_sqlite_clock.install()
_known.keep_out_of_the_log()

_HOME = {
    "DBOSAgent": "agent",
    "DBOSAgentExecutor": "_agents.executor",
    "DBOSCrew": "crew",
    "DBOSFlow": "flow",
    "DBOSLLM": "_objects.llm",
    "StepConfig": "_journal.config",
    "RunHandle": "_runs.handle",
    "allow_modules": "_stored.modules",
    "idempotency_key": "_objects.tools",
    "store_hidden": "_stored.hidden",
    "now": "values",
    "uuid4": "values",
    "random": "values",
    "step": "values",
    "BatchError": "_errors",
    "CrewaiDbosError": "_errors",
    "DefinitionError": "_errors",
    "UnstorableInputError": "_errors",
    "UnstorableValueError": "_errors",
    "DriftError": "_errors",
    "JournalCorruptError": "_errors",
    "LostContextError": "_errors",
    "ConcurrentRunError": "_errors",
    "RunConflictError": "_errors",
    "SealedError": "_errors",
    "RecordedError": "_errors",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
