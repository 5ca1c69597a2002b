"""Start it, kill it in the middle, start it again: it goes on where it was.

crewAI takes the model from MODEL (gpt-4.1-mini if unset) and the key from OPENAI_API_KEY.
"""

from crewai import Agent, Task
from crewai.tools import tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSAgent


@tool
@DBOS.step()
def save_chapter(title: str, text: str) -> str:
    """Add a chapter to the story."""
    with open("story.md", "a") as story:
        story.write(f"# {title}\n\n{text}\n\n")
    return f"Saved {title!r}."


writer = DBOSAgent(
    agent_name="writer",
    orig_agent=Agent(
        role="Writer",
        goal="Write short stories, one chapter at a time.",
        backstory="You save each chapter before you begin the next.",
        tools=[save_chapter],
    ),
)

if __name__ == "__main__":
    DBOS(
        config={
            "name": "quickstart",
            "system_database_url": "sqlite:///quickstart.sqlite",
            "application_version": "quickstart-1",  # else an update of DBOS leaves runs behind
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    task = Task(
        description="Write a story in three chapters about a lighthouse keeper.",
        expected_output="One sentence that says what happens in the story.",
        agent=writer,
    )
    with SetWorkflowID("lighthouse"):  # the same id is the same run, however often it is started
        print(writer.execute_task(task))
