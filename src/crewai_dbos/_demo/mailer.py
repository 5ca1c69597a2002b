"""The agent of the demo: it invites three people. Read it as an example of using crewai-dbos."""

import os

from crewai import Agent, Task
from crewai.tools import tool
from dbos import DBOS, DBOSConfig, SetWorkflowID

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import EffectLog

sent = EffectLog(os.environ["DEMO_SENT"])


@tool
@DBOS.step()  # recorded: a call that has returned is never made again
def send_email(to: str, subject: str, body: str) -> str:
    """Send an email."""
    sent.report("email", to=to, subject=subject)  # stands for your mail provider
    return f"Sent to {to}."


assistant = Agent(
    role="Office assistant",
    goal="Invite people by email.",
    backstory="You write to each person separately.",
    llm="openai/gpt-4o-mini",
    tools=[send_email],
)
durable_assistant = DBOSAgent(agent_name="assistant", orig_agent=assistant)


def invite(agent: Agent) -> str:
    task = Task(
        description="Invite Ada, Grace and Edsger to the review on Friday, one email each.",
        expected_output="A sentence that says who was invited.",
    )
    return str(agent.execute_task(task))


def launch() -> None:
    """What a service does when it starts. Runs that a crash cut short go on from here."""
    config: DBOSConfig = {
        "name": "mailer",
        "system_database_url": os.environ["DEMO_DATABASE_URL"],
        "log_level": "CRITICAL",
    }
    DBOS(config=config)
    DBOS.launch()


def invite_durably(run_id: str) -> str:
    with SetWorkflowID(run_id):
        return invite(durable_assistant)
