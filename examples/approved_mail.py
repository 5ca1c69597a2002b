"""A crew whose mails a person reads before they are sent, and may change.

Start it, and answer from another terminal, today or on Monday:

    crewai-dbos inbox --db-url sqlite:///approved_mail.sqlite

Kill it meanwhile and start it again: nobody is asked twice, and no finished call is made again. A
mail in flight at the kill may be there twice, with the same key, by which a mail service drops the
second. crewAI takes the model from MODEL (gpt-4.1-mini if unset) and the key from OPENAI_API_KEY.
"""

from datetime import timedelta
from pathlib import Path

from crewai import Agent, Crew, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew, People, ToolRequest, idempotency_key

OUTBOX = Path("outbox.txt")


@tool("send_email")
def send_email(to: str, subject: str, body: str) -> str:
    """Send an email to a customer."""
    # A mail service that drops duplicates is given the key; a file is enough to show it.
    with OUTBOX.open("a") as outbox:
        outbox.write(f"To: {to}\nSubject: {subject}\nKey: {idempotency_key()}\n\n{body}\n---\n")
    return f"Sent to {to}."


def leaves_the_house(request: ToolRequest) -> bool:
    """Colleagues are written to without asking."""
    return not str(request.arguments["to"]).endswith("@office.example")


clerk = Agent(
    role="Clerk",
    goal="Answer customers kindly and in few words",
    backstory="You have answered customers for twenty years.",
    tools=[send_email],
)
answer = Task(
    description="Answer this mail with one of your own, and tell sales@office.example: {mail}",
    expected_output="One line that says who was written to.",
    agent=clerk,
)
office = DBOSCrew(
    crew_name="office",
    orig_crew=Crew(agents=[clerk], tasks=[answer]),
    people=People(
        approve_tools=leaves_the_house,
        deadline=timedelta(days=3),
        audience="support",
        linger=1.0,
    ),
)

if __name__ == "__main__":
    DBOS(
        config={
            "name": "office",
            "system_database_url": "sqlite:///approved_mail.sqlite",
            "application_version": "office-1",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    with SetWorkflowID("mail-4711"):
        print(office.kickoff({"mail": "From ann@example.org: where is my kettle?"}).raw)
    DBOS.destroy()
