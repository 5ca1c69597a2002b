"""An agent with a tool, run and replayed on SQLite: on each Python by `make smoke`."""

import os
import sys
import tempfile

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_VERSION_CHECK="true",
    CREWAI_TESTING="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
)

from crewai import LLM, Agent, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, text, tool_calls

calls: list[int] = []


@tool
@DBOS.step()
def double(number: int) -> int:
    """Double a number."""
    calls.append(number)
    return 2 * number


def script(request: Request) -> Reply:
    if request.tool_results:
        return text(f"It is {request.tool_results[0][1]}.")
    return tool_calls(ToolCall("double", {"number": 21}))


with tempfile.TemporaryDirectory() as directory, ModelServer(script) as server:
    os.environ["HOME"] = directory
    llm = LLM(model="openai/gpt-4o-mini", api_key="sk-smoke", base_url=server.base_url)
    agent = DBOSAgent(
        agent_name="smoke",
        orig_agent=Agent(role="Clerk", goal="Count", backstory="Exact.", llm=llm, tools=[double]),
    )
    url = f"sqlite:///{directory}/dbos.sqlite"
    DBOS(config={"name": "smoke", "system_database_url": url, "log_level": "WARNING"})
    try:
        DBOS.launch()
        with SetWorkflowID("smoke"):
            answer = agent.execute_task(Task(description="21 doubled?", expected_output="Text."))
        assert answer == "It is 42."
        replay = DBOS.fork_workflow("smoke", 1000).get_workflow_id()
        assert agent.retrieve(replay).get_result() == answer
        assert (len(server.requests), calls) == (2, [21])
    finally:
        DBOS.destroy()
print(f"smoke: ok on Python {sys.version.split()[0]}")
