"""What `crewai_dbos` offers beside its errors, and where that is.

Type checkers import this. At run time `crewai_dbos` only reads it: importing it loads crewAI.
"""

from crewai_dbos._agents.executor import DBOSAgentExecutor as DBOSAgentExecutor
from crewai_dbos._journal.config import StepConfig as StepConfig
from crewai_dbos._objects.llm import DBOSLLM as DBOSLLM
from crewai_dbos._objects.tools import idempotency_key as idempotency_key
from crewai_dbos._people.policy import People as People
from crewai_dbos._people.policy import ToolRequest as ToolRequest
from crewai_dbos._people.questions import ask as ask
from crewai_dbos._people.questions import ask_async as ask_async
from crewai_dbos._runs.handle import RunHandle as RunHandle
from crewai_dbos._runs.unrecorded import allow_unrecorded as allow_unrecorded
from crewai_dbos._runs.unrecorded import refuse_unrecorded as refuse_unrecorded
from crewai_dbos._stored.budget import Budget as Budget
from crewai_dbos._stored.budget import SetBudget as SetBudget
from crewai_dbos._stored.context import store_context as store_context
from crewai_dbos._stored.hidden import store_hidden as store_hidden
from crewai_dbos._stored.modules import allow_modules as allow_modules
from crewai_dbos.agent import DBOSAgent as DBOSAgent
from crewai_dbos.crew import DBOSCrew as DBOSCrew
from crewai_dbos.flow import DBOSFlow as DBOSFlow
from crewai_dbos.values import now as now
from crewai_dbos.values import random as random
from crewai_dbos.values import step as step
from crewai_dbos.values import uuid4 as uuid4
from crewai_dbos.worker import Worker as Worker
