"""Each of these programs has one fault. The doctor finds it and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crewai_dbos.doctor import _rules
from doctor.conftest import Run
from doctor.planted import Fault, check
from doctor.test_planted_faults_of_flows import FAULTS as OF_FLOWS

HEAD = '''
from crewai import Agent, Crew, Task
from crewai.events import ToolUsageFinishedEvent, crewai_event_bus
from crewai.hooks import before_tool_call
from crewai.mcp import MCPServerHTTP
from crewai.tools import tool
from dbos import DBOS
from pydantic import BaseModel

from crewai_dbos import DBOSAgent, StepConfig


@tool
@DBOS.step()
def send(to: str) -> str:
    """Send it."""
    return to


class Reply(BaseModel):
    text: str


def clerk(**options):
    given = {"role": "Clerk", "goal": "Work", "backstory": "Kind.", "llm": "openai/gpt-4o-mini"}
    return Agent(**{**given, "tools": [send], **options})


def durable(name, **options):
    return DBOSAgent(agent_name=name, orig_agent=clerk(**options))


def job(agent, **options):
    return Task(**{"description": "Do it.", "expected_output": "A text.", **options}, agent=agent)
'''


FAULTS = [
    Fault("sound", "x = durable('sound')\ntask = job(x, output_pydantic=Reply)"),
    Fault(
        "undecorated",
        """
@tool
def search(query: str) -> str:
    "Search."
    return query

x = durable("undecorated", tools=[send, search])
""",
        "undecorated-tool",
        "warning",
        ("'search'", "agent 'undecorated'"),
    ),
    Fault(
        "configured",
        """
@tool
def search(query: str) -> str:
    "Search."
    return query

x = DBOSAgent(
    agent_name="configured",
    orig_agent=clerk(tools=[search], guardrail="Is it kind?"),
    tool_step_config={"search": StepConfig()},
)
""",
    ),
    Fault(
        "tools_of_a_server",
        "x = durable('tools_of_a_server', "
        "mcps=[MCPServerHTTP(url='https://u:p@mcp.test/all?key=1')])",
        "undecorated-tool",
        "warning",
        ("'tools of https://mcp.test/all'",),
    ),
    Fault(
        "name_missing",
        "x = durable(' ')",
        "definition",
        "error",
        ("agent_name must be a non-empty string", "name_missing.py, line "),
    ),
    Fault(
        "name_left_out",
        "x = DBOSAgent(orig_agent=clerk())",
        "definition",
        "error",
        ("missing", "'agent_name'", "name_left_out.py, line "),
    ),
    Fault(
        "name_taken",
        "x = durable('name_taken')\ny = durable('name_taken')",
        "definition",
        "error",
        ("'name_taken' is defined already",),
    ),
    Fault(
        "config_of_no_tool",
        "x = DBOSAgent(agent_name='n', orig_agent=clerk(), tool_step_config={'sned': None})",
        "definition",
        "error",
        ("'sned'",),
    ),
    Fault(
        "local_model",
        """
def make():
    class Answer(BaseModel):
        text: str

    return Answer

x = durable("local_model")
task = job(x, output_pydantic=make())
""",
        "local-model",
        "error",
        ("(output_pydantic)", "task 1", "make.<locals>.Answer"),
    ),
    Fault(
        "local_model_in_a_crew",
        """
def make():
    class Answer(BaseModel):
        text: str

    return Answer

a = durable("local_model_in_a_crew")
x = Crew(agents=[a], tasks=[job(a, response_model=make())])
""",
        "local-model",
        "warning",
        ("(response_model)",),
    ),
    Fault(
        "local_result",
        """
def make():
    class Found(BaseModel):
        text: str

    @tool
    @DBOS.step()
    def search(query: str) -> Found:
        "Search."
        return Found(text=query)

    return search

x = durable("local_result", tools=[make()])
""",
        "local-result",
        "warning",
        ("'search'", "make.<locals>.Found"),
    ),
    Fault(
        "local_result_of_a_workflow",
        """
def make():
    class Found(BaseModel):
        text: str

    @tool
    @DBOS.workflow()
    def search(query: str) -> Found:
        "Search."
        return Found(text=query)

    return search

x = durable("local_result_of_a_workflow", tools=[make()])
if not x: DBOS(config={"name": "app", "application_version": "1"})
""",
        "local-result",
        "error",
        ("fails",),
    ),
    Fault(
        "crew_with_a_planner",
        "a = durable('crew_with_a_planner')\n"
        "x = Crew(agents=[a], tasks=[job(a)], planning=True, planning_llm='openai/gpt-4o')",
        "unrecorded-llm",
        "warning",
        ("gpt-4o (planning_llm)",),
    ),
    Fault(
        "crew_with_a_durable_planner",
        "from crewai_dbos import DBOSLLM\n"
        "a = durable('crew_with_a_durable_planner')\n"
        "llm = DBOSLLM('openai/gpt-4o')\n"
        "x = Crew(agents=[a], tasks=[job(a)], planning=True, planning_llm=llm)",
    ),
    Fault(
        "method_of_its_own",
        """
x = durable("method_of_its_own")
object.__setattr__(x, "execute_task", lambda task, context=None, tools=None: "mine")
""",
        "replaced-method",
        "error",
        ("execute_task",),
    ),
    Fault(
        "name_set_later",
        """
def make():
    def check(output):
        return (limit > 3, later)
    limit = 4
    return check
    later = 5

x = durable("name_set_later", guardrail=make())
""",
    ),
    Fault(
        "guardrail_with_state",
        """
def counting():
    seen = []
    return lambda output: (len(seen) < 3, output)

x = durable("guardrail_with_state", guardrail=counting())
""",
        "changing-state",
        "warning",
        ("guardrail", "seen (list)"),
    ),
    Fault(
        "handler_with_state",
        """
def listen():
    count = {}

    @crewai_event_bus.on(ToolUsageFinishedEvent)
    def counted(source, event):
        count[event.tool_name] = 1

listen()
x = durable("handler_with_state")
""",
        "changing-state",
        "warning",
        ("handler", "counted", "count (dict)"),
    ),
    Fault(
        "recorded_handler_with_state",
        """
def listen():
    count = {}

    @crewai_event_bus.on(ToolUsageFinishedEvent)
    @DBOS.step()
    def counted(source, event):
        count[event.tool_name] = 1

listen()
x = durable("recorded_handler_with_state")
""",
        "changing-state",
        "warning",
        ("count (dict)",),
    ),
    Fault(
        "default_with_state",
        """
def tell(output, told=[]):
    told.append(output)

x = durable("default_with_state", step_callback=tell)
""",
        "changing-state",
        "warning",
        ("callback", "told (list)"),
    ),
    Fault(
        "guardrail_of_constants",
        """
def at_most(length, names=("a", "b")):
    return lambda output: (len(output.raw) <= length, names)

x = durable("guardrail_of_constants", guardrail=at_most(80))
""",
    ),
    Fault(
        "guardrail_of_other_constants",
        """
import asyncio
import datetime
import threading
import zoneinfo
from pydantic import ConfigDict

class Limits(BaseModel):
    model_config = ConfigDict(frozen=True)
    length: int = 80

def make():
    zone, utc, limits = zoneinfo.ZoneInfo("Asia/Tokyo"), datetime.timezone.utc, Limits()
    lock, again, waits = threading.Lock(), threading.RLock(), asyncio.Lock()
    return lambda output: ((zone, utc, limits, lock, again, waits), output)

x = durable("guardrail_of_other_constants", guardrail=make())
""",
    ),
    Fault(
        "guardrail_with_a_model_that_changes",
        """
def make():
    reply = Reply(text="a")
    return lambda output: (reply, output)

x = durable("guardrail_with_a_model_that_changes", guardrail=make())
""",
        "changing-state",
        "warning",
        ("reply (Reply)",),
    ),
    Fault(
        "plain_handler",
        """
@crewai_event_bus.on(ToolUsageFinishedEvent)
def told(source, event): ...

x = durable("plain_handler")
""",
        "replayed",
        "hint",
        ("handler", "told"),
        fix="Decorate it with @DBOS.step() if it must not.",
    ),
    Fault(
        "plain_hook",
        """
@before_tool_call
def allow(context): ...

x = durable("plain_hook")
""",
        "replayed",
        "hint",
        ("hook", "allow"),
        fix="unless it changes what it is given: a recorded call does not make that change again.",
    ),
    Fault(
        "recorded_code",
        """
@crewai_event_bus.on(ToolUsageFinishedEvent)
@DBOS.step()
def told(source, event): ...

@DBOS.step()
def look(step): ...

x = durable("recorded_code", step_callback=look)
""",
    ),
    Fault(
        "version_not_set",
        """
x = durable("version_not_set")

@DBOS.workflow()
def handle(number): ...

if __name__ == "__main__":
    config = {"name": "app"}
    DBOS(config=config)
""",
        "application-version",
        "warning",
    ),
    Fault(
        "version_not_set_alive",
        """
x = durable("version_not_set_alive")

@DBOS.workflow()
def handle(number): ...

DBOS(config={"name": "some-app", "log_level": "CRITICAL"})
""",
        "application-version",
        "warning",
    ),
    Fault(
        "version_not_seen",
        """
x = durable("version_not_seen")

@DBOS.workflow()
def handle(number): ...
""",
        "application-version",
        "hint",
        ("as far as can be seen",),
    ),
    Fault(
        "version_of_steps",
        "x = durable('version_of_steps')\nif not x: DBOS(config={'name': 'app'})",
        "application-version",
        "hint",
        ("the number of",),
    ),
    Fault(
        "version_set",
        """
x = durable("version_set")
version = 1

@DBOS.workflow()
def handle(number): ...

if __name__ == "__main__":
    DBOS(config={"name": "app", "application_version": str(version)})
""",
    ),
    Fault(
        "local_on_postgres",
        """
x = durable("local_on_postgres")
if not x:
    DBOS(config={"name": "app", "application_version": "1",
                 "system_database_url": "postgresql://db.test/app"})
""",
        "several-processes",
        "hint",
        ("'local', as is any other",),
    ),
    Fault(
        "called_local_on_postgres",
        """
x = durable("called_local_on_postgres")
if not x:
    DBOS(config={"name": "app", "application_version": "1", "executor_id": "local",
                 "system_database_url": "postgresql://db.test/app"})
""",
        "several-processes",
        "hint",
        ("is 'local', as is any other",),
    ),
    Fault(
        "version_not_set_on_postgres",
        """
x = durable("version_not_set_on_postgres")
if not x:
    DBOS(config={"name": "app", "executor_id": str(x),
                 "system_database_url": "postgresql://db.test/app"})
""",
        "application-version",
        "hint",
        ("after an update of DBOS",),
    ),
    Fault(
        "queue_of_one_on_postgres",
        """
x = durable("queue_of_one_on_postgres")
if not x:
    DBOS(config={"name": "app", "application_version": "1", "executor_id": str(x),
                 "system_database_url": "postgresql://db.test/app"})
    DBOS.register_queue("jobs", global_concurrency=1, worker_concurrency=1)
    DBOS.register_queue("more", global_concurrency=2)
    DBOS.register_queue("each", worker_concurrency=1)
""",
        "queue-limit",
        "hint",
        ("The queue 'jobs' is limited: 1 run is at work",),
    ),
    Fault(
        "batch_for_as_many_as_die",
        """
x = durable("batch_for_as_many_as_die")
url = "postgresql://localhost/app"
if not x:
    DBOS(config={"name": "app", "application_version": "1", "executor_id": str(x),
                 "system_database_url": url})
    x.kickoff_for_each([], concurrency=4)
""",
        "queue-limit",
        "hint",
        ("A batch is limited: 4 runs are at work",),
        {"WEB_CONCURRENCY": "4"},
    ),
    Fault(
        "queue_of_one_on_sqlite",
        """
x = durable("queue_of_one_on_sqlite")
if not x:
    DBOS(config={"name": "app", "application_version": "1"})
    DBOS.register_queue("jobs", global_concurrency=1)
""",
    ),
    Fault(
        "random_definition",
        """
import random

def title():
    return f"Clerk {random.randint(1, 9)}"

def build():
    return clerk(role=title())

x = DBOSAgent(agent_name="random_definition", orig_agent=build)
""",
        "changing-definition",
        "warning",
        ("The function build builds the definition and calls random.randint (line ", " of title)"),
    ),
    Fault(
        "crew_base_with_hooks",
        """
from crewai.project import CrewBase, after_kickoff, agent, before_kickoff, crew, task
from crewai_dbos import DBOSCrew

@CrewBase
class Latest:
    agents: list
    tasks: list

    def __init__(self):
        self.said = []

    @before_kickoff
    def begin(self, inputs):
        return inputs

    @agent
    def clerk(self):
        return clerk(role="Clerk\\n")

    @task
    def job(self):
        return job(self.clerk(), callback=lambda output: self.said.append(output.raw))

    @crew
    def crew(self):
        return Crew(agents=self.agents, tasks=self.tasks)

x = DBOSCrew(crew_name="crew_base_with_hooks", orig_crew=Latest, tool_step_config=StepConfig())
""",
    ),
    Fault(
        "executors_on_sqlite",
        """
x = durable("executors_on_sqlite")
if not x:
    DBOS(config={"name": "app", "application_version": "1", "executor_id": str(x)})
""",
        "several-processes",
        "hint",
        ("SQLite",),
    ),
    Fault(
        "executors_on_sqlite_by_environment",
        """
x = durable("executors_on_sqlite_by_environment")
if not x:
    DBOS(config={"name": "app", "application_version": "1"})
""",
        "several-processes",
        "hint",
        ("SQLite",),
        {"DBOS__VMID": "machine-1"},
    ),
    Fault(
        "executors_on_postgres",
        """
x = durable("executors_on_postgres")
url = "postgresql://localhost/app"
if not x:
    DBOS(config={"name": "app", "application_version": "1", "executor_id": str(x),
                 "system_database_url": url})
""",
        env={"WEB_CONCURRENCY": "4"},
    ),
    Fault(
        "workers_of_one_name",
        """
x = durable("workers_of_one_name")
if not x:
    DBOS(config={"name": "app", "application_version": "1"})
""",
        "several-processes",
        "warning",
        ("4 processes", "'local'"),
        {"GUNICORN_CMD_ARGS": "--bind :80 --workers=4"},
    ),
    Fault(
        "memory_of_a_machine",
        """
from crewai.memory.unified_memory import Memory
from crewai_dbos import DBOSCrew

def build(shared):
    return Crew(agents=[shared], tasks=[job(shared)], memory=Memory(llm="gpt-4o-mini"))

x = DBOSCrew(crew_name="memory_of_a_machine", orig_crew=build(clerk()))
""",
        "local-memory",
        "warning",
        ("The memory of crew", "a folder of this machine"),
        {"DBOS_SYSTEM_DATABASE_URL": "postgresql://db/app", "DBOS__APPVERSION": "app-1"},
    ),
    Fault(
        "memory_where_no_database_is_known",
        """
x = durable("memory_where_no_database_is_known", memory=True)
""",
        "local-memory",
        "hint",
        ("The memory of agent",),
    ),
    Fault(
        "memory_beside_sqlite",
        """
x = durable("memory_beside_sqlite", memory=True)
""",
        env={"DBOS_SYSTEM_DATABASE_URL": "sqlite:///app.sqlite"},
    ),
    Fault(
        "memory_where_the_user_has_said",
        """
import tempfile
from crewai.memory.unified_memory import Memory

x = durable("memory_where_the_user_has_said", memory=Memory(storage=tempfile.mkdtemp()))
""",
        env={"DBOS_SYSTEM_DATABASE_URL": "postgresql://db/app", "DBOS__APPVERSION": "app-1"},
    ),
    Fault(
        "secret_in_a_text",
        "x = durable('secret_in_a_text', backstory='The door opens with hunter2hunter2.')",
        "secret",
        "error",
        ("backstory", "DOOR_PASSWORD"),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_task",
        "x = durable('secret_in_a_task')\n"
        "task = job(x, name='login', description='Use hunter2hunter2.')",
        "secret",
        "error",
        ("description of task 'login'", "DOOR_PASSWORD", "stored"),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_default",
        """
@tool
@DBOS.step()
def open_door(password: str = "hunter2hunter2") -> str:
    "Open it."
    return "open"

x = durable("secret_in_a_default", tools=[open_door])
""",
        "secret",
        "error",
        ("default of 'password'", "'open_door'"),
        {"DOOR_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_guardrail",
        "x = durable('secret_in_a_guardrail', guardrail='Never say hunter2hunter2.')",
        "secret",
        "error",
        ("The guardrail of agent 'secret_in_a_guardrail'", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_guardrail_of_a_task",
        "x = durable('secret_in_a_guardrail_of_a_task')\n"
        "task = job(x, guardrails=['Never say hunter2hunter2.'])",
        "secret",
        "error",
        ("The guardrail of task 1", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_list",
        """
@tool
@DBOS.step()
def open_door(code: str, others: list[str] = ["a", "hunter2hunter2"]) -> str:
    "Open the door."
    return code

x = durable("secret_in_a_list", tools=[open_door])
""",
        "secret",
        "error",
        ("The default of 'others'", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_tool_of_a_task",
        """
@tool
@DBOS.step()
def open_door(code: str = "hunter2hunter2") -> str:
    "Open the door."
    return code

x = durable("secret_in_a_tool_of_a_task")
task = job(x, tools=[open_door])
""",
        "secret",
        "error",
        ("The default of 'code'", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_a_file_name",
        """
from crewai_dbos import DBOSCrew

a = clerk()
t = job(a, output_file="out/hunter2hunter2.md")
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=[t]))
""",
        "secret",
        "error",
        ("The output_file of task 1", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "secret_in_knowledge",
        """
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource

source = StringKnowledgeSource(content="The door opens with hunter2hunter2.")
x = durable("secret_in_knowledge", knowledge_sources=[source])
""",
        "secret",
        "error",
        ("The content of the StringKnowledgeSource of agent", "SHOP_PASSWORD"),
        {"SHOP_PASSWORD": "hunter2hunter2"},
    ),
    Fault(
        "key_of_the_model",
        """
from crewai import LLM

key = "sk-of-this-llm-only"
model = LLM(model="openai/gpt-4o-mini", api_key=key)
x = durable("key_of_the_model", llm=model, goal=f"Call it with {key}")
""",
        "secret",
        "error",
        ("goal", "LLM 'gpt-4o-mini'"),
    ),
    Fault(
        "two_of_one_name",
        """
@tool("Send")
@DBOS.step(name="other")
def other(to: str) -> str:
    "Send it elsewhere."
    return to

x = durable("two_of_one_name", tools=[send, other])
""",
        "same-tool-name",
        "error",
        ("2 tools", "'send'"),
    ),
    Fault(
        "two_of_one_name_in_a_task",
        """
from crewai_dbos import DBOSCrew

@tool("Send")
def other(to: str) -> str:
    "Send it elsewhere."
    return to

a = clerk(tools=[])
t = job(a, tools=[send, other])
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=[t]))
""",
        "same-tool-name",
        "error",
        ("2 tools of task 1", "'send'"),
    ),
    Fault(
        "one_tool_of_two_agents_of_one_role",
        """
from crewai_dbos import DBOSCrew

a, b = clerk(), clerk()
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a, b], tasks=[job(a), job(b)]))
""",
    ),
    Fault(
        "one_tool_of_two_tasks_of_one_name",
        """
from crewai_dbos import DBOSCrew

a = clerk(tools=[])
tasks = [job(a, name="draft", tools=[send]), job(a, name="draft", tools=[send])]
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=tasks))
""",
    ),
    Fault(
        "undecorated_tool_of_a_task",
        """
@tool
def search(query: str) -> str:
    "Search."
    return query

x = durable("undecorated_tool_of_a_task")
task = job(x, name="find", tools=[search])
""",
        "undecorated-tool",
        "warning",
        ("'search'", "task 'find'"),
    ),
    Fault(
        "recorded_tool_of_a_task",
        """
from crewai_dbos import DBOSCrew

@tool
def search(query: str) -> str:
    "Search."
    return query

a = clerk()
t = job(a, tools=[search])
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=[t]))
""",
    ),
    Fault(
        "crew_with_a_tool_of_a_task",
        """
@tool
@DBOS.step()
def search(query: str) -> str:
    "Search."
    return query

a = durable("crew_with_a_tool_of_a_task")
x = Crew(agents=[a], tasks=[job(a, tools=[search])])
""",
        "crew-alone",
        "hint",
        ("search of task 1",),
    ),
    Fault(
        "asks_a_person",
        "x = durable('asks_a_person')\ntask = job(x, human_input=True)\nother = job(None)",
        "waits-for-people",
        "hint",
        ("human_input of task 1",),
    ),
    Fault("plain_agent", "x = clerk()", "not-durable", "warning", ("Agent 'Clerk'",)),
    Fault(
        "plain_crew",
        "a = clerk()\nx = Crew(agents=[a], tasks=[job(a)])",
        "not-durable",
        "warning",
        ("The crew is no DBOSCrew",),
    ),
    Fault(
        "partly_durable_crew",
        "a, b = clerk(), durable('partly_durable_crew')\n"
        "x = Crew(agents=[a, b], tasks=[job(a), job(b)])",
        "not-durable",
        "warning",
        ("Agent 'Clerk' is no DBOSAgent",),
    ),
    Fault(
        "durable_crew",
        "a = durable('durable_crew')\nx = Crew(agents=[a], tasks=[job(a)], name='office')",
    ),
    Fault(
        "whole_crew",
        """
from crewai_dbos import DBOSCrew

@tool
def search(query: str) -> str:
    "Search."
    return query

a = clerk(tools=[search])
t = job(a, callback=print, guardrail=lambda output: (True, output))
x = DBOSCrew(
    crew_name="whole", orig_crew=Crew(agents=[a], tasks=[t], step_callback=print, planning=True)
)
""",
    ),
    Fault(
        "agent_that_only_a_task_names",
        """
from crewai_dbos import DBOSCrew

@tool
def search(query: str) -> str:
    "Search."
    return query

a = clerk(role="Outsider", tools=[search])
tasks = [job(clerk()), job(a), job(a)]
x = DBOSCrew(crew_name="w", orig_crew=Crew(agents=[], tasks=tasks), tool_step_config=None)
""",
        "undecorated-tool",
        "warning",
        ("'search' of agent 'Outsider'",),
    ),
    Fault(
        "whole_crew_without_its_tools",
        """
from crewai_dbos import DBOSCrew

@tool
def search(query: str) -> str:
    "Search."
    return query

a = clerk(tools=[search])
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=[job(a)]), tool_step_config=None)
""",
        "undecorated-tool",
        "warning",
        ("'search'",),
    ),
    Fault(
        "whole_crew_with_a_local_model",
        """
from crewai_dbos import DBOSCrew

def make():
    class Local(BaseModel):
        text: str
    return Local

a = clerk()
t = job(a, output_pydantic=make())
x = DBOSCrew(crew_name="whole", orig_crew=Crew(agents=[a], tasks=[t]))
""",
        "local-model",
        "error",
        ("output_pydantic",),
    ),
    Fault(
        "crew_that_shares",
        """
@DBOS.step()
def look(step): ...

a = durable("crew_that_shares")
x = Crew(agents=[a], tasks=[job(a)], step_callback=look)
""",
        "crew-alone",
        "hint",
        ("look (step_callback)",),
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_found_and_nothing_else(
    fault: Fault,
    module: Callable[[str, str], None],
    doctor: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in fault.env.items():
        monkeypatch.setenv(name, value)
    module(fault.name, HEAD + fault.source)
    check(fault, doctor(f"{fault.name}:x", "--json"))


def test_every_rule_has_a_fault() -> None:
    planted = {fault.rule for fault in (*FAULTS, *OF_FLOWS) if fault.rule}
    named = {rule.__name__.replace("_", "-") for rule in _rules.RULES}
    assert planted == named | {"definition"}
