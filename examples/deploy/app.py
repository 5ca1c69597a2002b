"""The crew that the workers carry out.

crewAI takes the model from MODEL, the key from OPENAI_API_KEY and the address from OPENAI_BASE_URL.
"""

from crewai import Agent, Crew, Task

from crewai_dbos import DBOSCrew


def build() -> Crew:
    researcher = Agent(
        role="Researcher",
        goal="Find out what is worth knowing.",
        backstory="You leave out what you are not sure of.",
    )
    writer = Agent(
        role="Writer",
        goal="Write short texts for children.",
        backstory="You use no word that a child of ten would have to look up.",
    )
    find = Task(
        name="find",
        description="Find five facts about {topic}.",
        expected_output="Facts, one a line.",
        agent=researcher,
    )
    write = Task(
        name="write",
        description="Write a page about {topic}.",
        expected_output="A text of at most 100 words.",
        agent=writer,
    )
    return Crew(name="research", agents=[researcher, writer], tasks=[find, write])


research = DBOSCrew(crew_name="research", orig_crew=build)
