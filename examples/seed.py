"""The example this package began with: a decorated tool, a wrapped agent, an event handler.

Runs offline, against a scripted model. To use a real one, leave the server out and set
OPENAI_API_KEY.
"""

import os
import tempfile

from crewai import Agent, Task
from crewai.events import ToolUsageFinishedEvent, crewai_event_bus
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import Message, ModelServer, Request, ToolCall, text, tool_calls


def model(request: Request) -> Message:
    """What the model says: first a tool call, then the answer."""
    if not request.tool_results:
        return tool_calls(ToolCall("multiplier", {"first_number": 3, "second_number": 4}))
    return text(f"The result of the multiplication is {request.tool_results[0][1]}.")


server = ModelServer(model).start()
os.environ.update(server.env)


@tool
@DBOS.step()  # Decorate this function as a DBOS step
def multiplier(first_number: int, second_number: int) -> float:
    """Useful for when you need to multiply two numbers together."""
    return first_number * second_number


# Agent declaration remains the same
orig_agent = Agent(
    role="test role",
    goal="test goal",
    backstory="test backstory",
    llm="openai/gpt-4o-mini",
    tools=[multiplier],
    allow_delegation=False,
)

# Wrap the original agent in a DBOS agent
dbos_agent = DBOSAgent(
    agent_name="test_agent_execution_with_tools",
    orig_agent=orig_agent,
)

task = Task(
    description="What is 3 times 4?",
    agent=dbos_agent,
    expected_output="The result of the multiplication.",
)
received_events: list[ToolUsageFinishedEvent] = []


@crewai_event_bus.on(ToolUsageFinishedEvent)
@DBOS.step()  # Decorate this handler as a DBOS step: it runs once for each event
def handle_tool_end(source: object, event: ToolUsageFinishedEvent) -> None:
    received_events.append(event)


with tempfile.TemporaryDirectory() as folder:
    database = f"sqlite:///{folder}/dbos.sqlite"
    DBOS(config={"name": "seed", "system_database_url": database, "log_level": "WARNING"})
    DBOS.launch()

    # The id is optional; without one it is a UUID.
    with SetWorkflowID("test_execution"):
        # The execution is a DBOS workflow, the LLM calls and the tool calls are its steps.
        output = dbos_agent.execute_task(task)
    assert output == "The result of the multiplication is 12."

    (event,) = received_events
    assert event.tool_name == "multiplier"
    assert event.tool_args == {"first_number": 3, "second_number": 4}

    for step in DBOS.list_workflow_steps("test_execution"):
        print(step["function_id"], step["function_name"])
    print(output)
    DBOS.destroy()
server.stop()
