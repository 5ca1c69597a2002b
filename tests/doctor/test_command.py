"""`crewai-dbos doctor` on the programs that we show, and what it exits with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import crewai_dbos
from doctor.conftest import Run, report
from pages.blocks import blocks, text_of
from support.python import python

ROOT = Path(__file__).parents[2]
SOURCE = str(Path(crewai_dbos.__file__).parents[1])
PAGE = text_of("docs/doctor.md")


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return python(
        *("-m", "crewai_dbos.cli", "doctor", *arguments),
        folder=folder,
        env={**os.environ, "PYTHONPATH": SOURCE, "COLUMNS": "88", **env},
    )


def plain(output: str) -> str:
    return "\n".join(line.rstrip() for line in output.splitlines())


# As a person starts it -------------------------------------------------------------


@pytest.mark.crash
def test_the_page_shows_what_its_program_gives(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(blocks("docs/doctor.md", section="an-example")[0])
    shown = PAGE.partition("$ crewai-dbos doctor app:agent\n")[2].partition("\n```")[0]
    done = run(tmp_path, "app:agent", SHOP_PASSWORD="correct-horse-battery")
    assert plain(done.stdout) == shown
    assert (done.returncode, done.stderr) == (1, "")


def test_the_page_asks_for_the_report(module: Callable[[str, str], None]) -> None:
    program, *_ = blocks("docs/doctor.md", section="an-example")
    (asks,) = blocks("docs/doctor.md", section="in-ci-in-python-and-when-an-agent-is-built")
    module("asked", f"{program}\n{asks}")
    report = import_module("asked").report
    assert "undecorated-tool" in [finding.rule for finding in report.findings]


@pytest.mark.crash
def test_a_program_that_prints_while_it_is_imported() -> None:
    done = run(ROOT / "examples", "seed:dbos_agent", "--json")
    assert done.returncode == 0, done.stderr
    assert "The result of the multiplication is 12." in done.stderr
    given = json.loads(done.stdout)
    assert given["subject"] == "DBOSAgent 'test_agent_execution_with_tools'"
    assert [(item["kind"], item["name"], item["seam"]) for item in given["items"]] == [
        ("llm", "gpt-4o-mini", "llm"),
        ("tool", "multiplier", "tool:multiplier(...)"),
        ("handler", "handle_tool_end (ToolUsageFinishedEvent)", "DBOS's own record"),
    ]
    assert rules(given) == [("application-version", "hint")]


@pytest.mark.crash
def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    done = run(tmp_path, "nowhere:agent", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "There is no module 'nowhere' here or installed.\n"


# In this process, which has crewAI imported ------------------------------------------


def rules(given: Any) -> list[tuple[str, str]]:
    return [(finding["rule"], finding["severity"]) for finding in given["findings"]]


def test_the_page_about_agents(module: Callable[[str, str], None], doctor: Run) -> None:
    program, *_, workflow = programs((ROOT / "docs" / "agents.md").read_text())
    module("agents_page", program)
    table = plain(doctor("agents_page:agent").stdout)
    assert table.startswith(
        "DBOSAgent 'support'\n"
        "\n"
        "part  name         recorded as           on recovery\n"
        "llm   gpt-4o-mini  llm                   answered from the record\n"
        "tool  send_email   tool:send_email(...)  answered from the record\n"
        "\n"
        "Nothing to put right."
    )

    # Without a version of its own there is a hint. With a workflow it matters.
    version = '            "application_version": "support-1",\n'
    assert version in program
    program = program.replace(version, "").replace('"support"', '"shop"')
    module("agents_page_without", program)
    table = plain(doctor("agents_page_without:agent").stdout)
    assert "\nhint  application-version\n" in table
    assert table.endswith("\n1 hint")
    program = program.replace('"shop"', '"store"')
    module("agents_page_workflows", "\n".join([program, workflow]))
    assert rules(report(doctor("agents_page_workflows:agent", "--json"))) == [
        ("application-version", "warning")
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("quickstart:writer", []),
        ("local_model:writer", [("application-version", "warning")]),
        ("crewai_dbos._demo.mailer:durable_assistant", [("application-version", "hint")]),
        (
            "crewai_dbos._demo.mailer:assistant",
            [("not-durable", "warning"), ("application-version", "hint")],
        ),
    ],
)
def test_the_examples(
    path: str,
    found: list[tuple[str, str]],
    doctor: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("DEMO_SENT", str(tmp_path / "sent"))
    name = path.partition(":")[0]
    first = sys.modules.pop(name, None)
    try:
        result = doctor(path, "--json")
    finally:
        sys.modules.pop(name, None)
        if first is not None:
            sys.modules[name] = first
    given = report(result)
    assert rules(given) == found
    assert all(item["recorded"] for item in given["items"])
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "'' is not an import path. It is a module, or module:object: app, or app:agent."),
        ("named", "named makes no DBOSAgent, DBOSCrew or DBOSFlow. It has: agent. Name what"),
        ("named:", "'named:' is not an import path."),
        ("named:agnt", "named has no 'agnt'. It has: agent."),
        ("named:make", "named:make is a function, not an agent, a crew or a flow. If it builds a"),
        ("named:odd", "named:odd is a Odd, not an agent, a crew or a flow. It has: agent."),
        ("inside.there:crew", "There is no module 'inside.there' here or installed.\n"),
        (
            "below.it:crew",
            "There is no module 'below' here or installed. Its file is: src/below/it",
        ),
        ("broken:agent", "Importing broken failed: ZeroDivisionError: division by zero"),
        ("needs:agent", "Importing needs failed: ModuleNotFoundError: No module named 'nobodys'"),
        ("leaves:agent", "Importing leaves failed: SystemExit: 3"),
        ("named.inside:agent", "There is no module 'named.inside' here or installed."),
        ("bad..name:agent", "There is no module 'bad'"),
        ("../named:agent", "'../named' is not the name of a module, as an import statement has it"),
        ("nowhere.py:agent", "'nowhere.py' is not the name of a module, as an import"),
        ("not-a-name.py", "'not-a-name.py' has a name that no import statement can have."),
        ("inside/json.py", "'inside/json.py' is imported as json, and that is another module"),
        ("named:odd.part", "Reading part of named:odd.part failed: ValueError: not now"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_line(
    path: str,
    says: str,
    module: Callable[[str, str], None],
    doctor: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    module(
        "named",
        "from crewai import Agent\n"
        "def make(): ...\n"
        "class Odd:\n"
        "    @property\n"
        "    def part(self): raise ValueError('not now')\n"
        "odd = Odd()\n"
        "agent = Agent(role='r', goal='g', backstory='b', llm='openai/gpt-4o-mini')\n",
    )
    module("not-a-name", "")
    (tmp_path / "inside").mkdir()
    module("inside/json", "")
    (tmp_path / "src" / "below").mkdir(parents=True)
    module("src/below/it", "")
    module("broken", "1 / 0")
    module("needs", "import nobodys")
    module("leaves", "raise SystemExit(3)")
    result = doctor(path)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(says)


def test_a_definition_that_is_refused_is_a_finding(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    module(
        "twice",
        "from crewai import Agent\n"
        "from crewai_dbos import DBOSAgent\n"
        "agent = Agent(role='r', goal='g', backstory='b', llm='openai/gpt-4o-mini')\n"
        "for _ in range(2):\n"
        "    DBOSAgent(agent_name='twice', orig_agent=agent)\n",
    )
    result = doctor("twice:agent")
    assert result.exit_code == 1
    output = " ".join(result.stdout.split())
    assert output.startswith("twice:agent error definition Agent 'twice' is defined already (")
    # A long path is broken where the terminal ends.
    assert "twice.py,line5)." in "".join(output.split())
    assert "Fix: Give each DBOSAgent its own agent_name" in output
    assert "Traceback" not in output


FLOW = """
from crewai.flow.flow import Flow, listen, start
from crewai_dbos import DBOSFlow

class Writing(Flow):
    @start()
    def draft(self): ...

    @listen({after})
    def publish(self): ...
"""


def test_a_flow(module: Callable[[str, str], None], doctor: Run) -> None:
    module(
        "flows_of_mine",
        FLOW.format(after="draft") + "flow = DBOSFlow(flow_name='writing', orig_flow=Writing)",
    )
    result = doctor("flows_of_mine:flow")
    assert result.exit_code == 0
    assert plain(result.stdout) == (
        "DBOSFlow 'writing'\n"
        "\n"
        "part    name                       recorded as        on recovery\n"
        "method  draft (start)              method:draft       restored; one cut short\n"
        "                                                      runs again\n"
        "method  publish (listens to        method:publish     restored; one cut short\n"
        "        draft)                                        runs again\n"
        "state   dict                       state, method:...  as the methods that had\n"
        "                                                      ended left it\n"
        "\n"
        "Nothing to put right."
    )
    result = doctor("flows_of_mine:Writing", "--json")
    assert result.exit_code == 0
    assert rules(report(result)) == [("not-durable", "warning")]

    offered = doctor("flows_of_mine:writing").stderr
    assert offered == "flows_of_mine has no 'writing'. It has: Writing, flow.\n"
    assert "not an agent, a crew or a flow" in doctor("flows_of_mine:Flow").stderr


def test_methods_that_make_no_flow_are_a_finding(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    module("circle", FLOW.format(after="'publish'"))
    result = doctor("circle:Writing", "--json")
    assert result.exit_code == 1
    (finding,) = report(result)["findings"]
    assert (finding["rule"], finding["severity"]) == ("definition", "error")
    assert "references the handler name 'publish'" in finding["what"]


SEVERAL = """
from crewai import Agent
from crewai_dbos import DBOSAgent

def made(name):
    agent = Agent(role='r', goal='g', backstory='b', llm='openai/gpt-4o-mini')
    return DBOSAgent(agent_name=name, orig_agent=agent)

first, second = made('{0}'), [made('{0} 2')]
"""


def test_all_that_a_module_defines(
    module: Callable[[str, str], None], doctor: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker would carry it out that is given the same."""
    monkeypatch.setenv("DBOS_SYSTEM_DATABASE_URL", "postgresql://db/app")
    module("several", SEVERAL.format("one"))
    module("more", SEVERAL.format("other"))
    given = report(doctor("several", "more:first", "several:first", "--json"))
    subjects = [each["subject"] for each in given]
    assert subjects == ["DBOSAgent 'one'", "DBOSAgent 'one 2'", "DBOSAgent 'other'"]
    shown = plain(doctor("several:first", "more:first").stdout)
    assert shown.count("hint  application-version") == 1, "what holds for all is said once"
    assert shown.endswith("\n\n1 hint (1 of them as above)")
    assert "DBOSAgent 'one'" in shown
    assert "\n\nDBOSAgent 'other'\n" in shown


def test_a_module_without_a_definition_is_not_passed_over(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    module("some", SEVERAL.format("here"))
    module("empty", "import json\nfrom typing import Any\n")
    module("imports", "import some\n")
    module("takes", "from imports import some as them\nfirst = them.first\n")
    module("by_function", "from some import made\n")
    for given in (["empty"], ["some", "empty"], ["empty", "some"], ["some:first", "empty"]):
        result = doctor(*given, "--json")
        assert (result.exit_code, result.stdout) == (2, ""), given
        assert result.stderr == (
            "empty makes no DBOSAgent, DBOSCrew or DBOSFlow. Name the module that does, or an "
            "agent, a crew or a flow: empty:name.\n"
        )
        sys.modules.pop("empty")
    for given in (["imports"], ["some", "imports"], ["some", "takes"], ["some", "by_function"]):
        result = doctor(*given, "--json")
        assert [each["subject"] for each in report(result)] == [
            "DBOSAgent 'here'",
            "DBOSAgent 'here 2'",
        ]


def test_a_module_by_its_file(
    module: Callable[[str, str], None],
    doctor: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "src" / "shop").mkdir(parents=True)
    module("src/shop/__init__", "")
    module("src/shop/app", SEVERAL.format("of a file"))
    try:
        for target in ("src/shop/app.py:first", "./src/shop/app.py:first"):
            done = doctor(target, "--json")
            assert done.exit_code == 0, done.output
            assert report(done)["subject"] == "DBOSAgent 'of a file'"
        assert import_module("shop.app").first.role == "r", "under its own name"
        subjects = [each["subject"] for each in report(doctor("src/shop/app.py", "--json"))]
        assert subjects == ["DBOSAgent 'of a file'", "DBOSAgent 'of a file 2'"]
    finally:
        for name in ("shop", "shop.app"):
            sys.modules.pop(name, None)


BEFORE_IT_IS_DURABLE = """
from __future__ import annotations
from crewai import Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, task
from crewai.tools import tool

@tool
def search(query: str) -> str:
    "Search."
    return query

def build() -> Crew:
    a = Agent(role="r", goal="g", backstory="b", llm="openai/gpt-4o-mini", tools=[search])
    t = Task(description="d", expected_output="e", agent=a, callback=print, human_input=True)
    return Crew(agents=[a], tasks=[t], planning=True, planning_llm="openai/gpt-4o-mini")

plain = build()

@CrewBase
class Newsdesk:
    agents_config = {}
    tasks_config = {}

    @agent
    def clerk(self) -> Agent:
        return build().agents[0]

    @task
    def job(self) -> Task:
        t = build().tasks[0]
        t.agent = self.clerk()
        return t

    @crew
    def crew(self) -> Crew:
        return build()

def main():
    raise SystemExit("the program has run")

def needs(name) -> Crew:
    return build()

def fails() -> Crew:
    return build().nothing

def bound() -> Crew:
    return DBOSCrew(crew_name="", orig_crew=build)

from crewai_dbos import DBOSCrew
"""


def test_a_crew_before_it_is_durable(module: Callable[[str, str], None], doctor: Run) -> None:
    """It is told of the one line that records all of it, and of nothing that this line mends."""
    module("before", BEFORE_IT_IS_DURABLE)
    for target in ("before:plain", "before:build", "before:Newsdesk"):
        result = doctor(target, "--json")
        given = report(result)
        assert (result.exit_code, given["subject"].partition(", ")[2]) == (
            0,
            "not durable; what a DBOSCrew around it would record",
        )
        assert [item["seam"] for item in given["items"]] == [
            *("llm", "tool:search(...)", "callback", "request", "planner.llm")
        ], target
        assert rules(given) == [("not-durable", "warning"), ("waits-for-people", "hint")]
        assert given["findings"][0]["fix"].startswith(
            "Wrap it: DBOSCrew(crew_name=..., orig_crew=...)"
        )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (":main", "If it builds a crew, make durable = DBOSCrew(crew_name=..., orig_crew=main)"),
        (":fails", "Calling unmade:fails failed: AttributeError: 'Crew' object has no attribute"),
        ("", "It has: build, plain, Newsdesk, needs, fails, bound. Name what to look at: unmade:"),
    ],
)
def test_what_makes_no_crew(
    name: str, says: str, module: Callable[[str, str], None], doctor: Run
) -> None:
    """A function that does not say that it returns a crew is not called: it may be the program."""
    module("unmade", BEFORE_IT_IS_DURABLE)
    result = doctor(f"unmade{name}")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert says in result.stderr


def test_a_function_that_can_make_no_crew_is_a_finding(
    module: Callable[[str, str], None], doctor: Run
) -> None:
    module("refused", BEFORE_IT_IS_DURABLE)
    for name, says in (("needs", "called without arguments"), ("bound", "crew_name must be")):
        result = doctor(f"refused:{name}", "--json")
        assert result.exit_code == 1
        (finding,) = report(result)["findings"]
        assert finding["rule"] == "definition"
        assert says in finding["what"]
