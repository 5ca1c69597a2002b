"""A program with a run that stops at its budget: begun, killed, started again with other limits.

``begin``: the run, killed in its first tool call. ``again``: DBOS recovers it, or it is resumed.
"""

from __future__ import annotations

import os
import sys

from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import Budget, DBOSCrew, SetBudget
from crewai_dbos.errors import BudgetExceeded


@tool("note")
def note(what: str) -> str:
    """Write something down."""
    if sys.argv[1] == "begin":
        os._exit(9)
    return f"noted {what}"


clerk = Agent(role="Clerk", goal="Write", backstory="Old.", llm="gpt-4o-mini", tools=[note])
task = Task(description="Go.", expected_output="A line.", agent=clerk)
limit = int(os.environ["LIMIT"])
thrifty = DBOSCrew(
    crew_name="thrifty",
    orig_crew=Crew(agents=[clerk], tasks=[task]),
    budget=Budget(tokens=limit) if limit else None,
)
DBOS(
    config={
        "name": "budget",
        "system_database_url": os.environ["DATABASE_URL"],
        "application_version": "v1",
        "log_level": "CRITICAL",
    }
)
DBOS.launch()
if sys.argv[1] == "begin" and limit:
    with SetWorkflowID("run"):
        thrifty.kickoff()
elif sys.argv[1] == "begin":
    with SetWorkflowID("run"), SetBudget(Budget(tokens=1)):
        thrifty.kickoff()
elif sys.argv[1] == "resume":
    DBOS.resume_workflow("run")
try:
    print(thrifty.retrieve("run").get_result().raw)
except BudgetExceeded as stopped:
    print(f"stopped at {stopped.limit} of {stopped.path}")
DBOS.destroy()
