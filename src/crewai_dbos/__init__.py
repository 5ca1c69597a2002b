"""crewAI work that survives the process, on DBOS Transact."""

from crewai_dbos._config import StepConfig
from crewai_dbos._errors import (
    ConcurrentRunError,
    CrewaiDbosError,
    DefinitionError,
    DriftError,
    JournalCorruptError,
    LostContextError,
    RecordedError,
    RunConflictError,
    UnstorableInputError,
    UnstorableValueError,
)
from crewai_dbos._executor import DBOSAgentExecutor
from crewai_dbos._handle import RunHandle
from crewai_dbos._llm import DBOSLLM
from crewai_dbos._tools import idempotency_key
from crewai_dbos.agent import DBOSAgent

__all__ = [
    "DBOSLLM",
    "ConcurrentRunError",
    "CrewaiDbosError",
    "DBOSAgent",
    "DBOSAgentExecutor",
    "DefinitionError",
    "DriftError",
    "JournalCorruptError",
    "LostContextError",
    "RecordedError",
    "RunConflictError",
    "RunHandle",
    "StepConfig",
    "UnstorableInputError",
    "UnstorableValueError",
    "idempotency_key",
]
