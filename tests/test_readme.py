"""The README, and the pages that it was cut into: what they show runs as it stands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crewai_dbos.testing import (
    EffectLog,
    ModelServer,
    Reply,
    Request,
    ToolCall,
    hang,
    text,
    tool_calls,
)
from crewai_dbos.testing.effects import EFFECTS
from pages.blocks import ROOT, blocks, headings, text_of
from pages.diffs import after
from support.python import Program, python

README = text_of("README.md")


def test_it_is_read_in_five_minutes() -> None:
    assert len(README.splitlines()) < 200


def test_its_links_hold_on_any_site() -> None:
    repository = _repository()
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 20
    ours = [link for link in links if link.startswith(repository)]
    assert set(links) - set(ours) == {"https://github.com/dbos-inc/dbos-transact-py"}
    for link in ours:
        kind, _, place = link.removeprefix(f"{repository}/").partition("/main/")
        assert kind in ("blob", "tree", "raw"), link
        path, _, anchor = place.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in headings(text_of(path)), link


def _repository() -> str:
    (found,) = re.findall(r'^Repository = "(.*)"$', text_of("pyproject.toml"), re.MULTILINE)
    return str(found)


# Its programs ---------------------------------------------------------------------------------


@pytest.mark.crash
def test_the_first_program_is_killed_and_started_again(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(blocks("README.md")[0])
    held = hang()

    def model(request: Request) -> Reply:
        if request.number == 3:
            return held
        saved = len(request.tool_results)
        if saved == 3:
            return text("Three facts about otters.")
        return tool_calls(ToolCall("save", {"fact": f"Fact {saved + 1}"}))

    with ModelServer(model) as server:
        env = {**os.environ, **server.env}
        killed = Program(program, folder=tmp_path, env=env)
        held.wait_until_held(timeout=60)
        killed.kill()
        killed.communicate(timeout=60)
        done = python(program, folder=tmp_path, env=env)
        again = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (promised,) = re.findall(r"`(Run otters goes on: .*)`", README)
    assert promised in done.stdout + done.stderr
    assert (tmp_path / "facts.txt").read_text() == "Fact 1\nFact 2\nFact 3\n"
    assert "Three facts about otters." in done.stdout
    assert "Three facts about otters." in again.stdout
    assert len(server.requests) == 5, "the third was cut off and made again"


@pytest.mark.crash
def test_a_worker_takes_what_is_kicked_off_by_name(tmp_path: Path) -> None:
    first, kicked_off = blocks("README.md")
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    (tmp_path / "app.py").write_text(first.partition("if __name__")[0])
    program = tmp_path / "program.py"
    program.write_text(
        "from app import DBOS, research\n"
        "from crewai_dbos import Worker\n"
        f"DBOS(config={{'name': 'research', 'system_database_url': {url!r}}})\n"
        "worker = Worker(grace=0)\n"
        "worker.__enter__()\n"
        + re.sub(r"postgresql://[^\"]+", url, kicked_off)
        + 'print(research.retrieve("seals").get_result().raw)\n'
        'status = DBOS.retrieve_workflow("seals").get_status()\n'
        "print(status.app_version, status.queue_name)\n"
        "worker.__exit__(None, None, None)\n"
    )
    (version,) = re.findall(r"DBOS__APPVERSION=(\S+)", README)
    with ModelServer(lambda request: text("Saved.")) as server:
        env = {**os.environ, **server.env, "DBOS__APPVERSION": version}
        done = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["Saved.", "research-1 research"]


# Those of the pages that it was cut into ------------------------------------------------------


def script(request: Request) -> Reply:
    if request.tool_results or "ticket 7" not in request.last_user_text:
        return text("Dear customer.")
    return tool_calls(ToolCall("send_email", {"to": "a@example.com", "body": "Soon."}))


@pytest.mark.crash
def test_the_blocks_run_one_after_the_other_as_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    shown = blocks("docs/agents.md") + blocks("docs/retries.md")
    program.write_text("\n".join([*shown, "with SetWorkflowID('mine'):\n    print(handle(3))\n"]))
    with ModelServer(script) as server:
        done = python(program, folder=tmp_path, env={**os.environ, **server.env})
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if line == "Dear customer."]
    assert len(answers) == 5
    assert len(server.requests) == 3


@pytest.mark.crash
def test_the_page_about_crews_is_one_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    ending = "with SetWorkflowID('mine'):\n    print(publish('otters'))\n"
    program.write_text("\n".join([*blocks("docs/crews.md"), ending]))
    with ModelServer(lambda request: text("Dear reader.")) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        done = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said.count("Dear reader.") == 2
    assert any(re.fullmatch(r"[0-9a-f-]{36} \w+ Dear reader\.", line) for line in said)
    assert len(server.requests) == 2 * 5, "two tasks in each of five runs"


DIFFS = {
    "agents": blocks("docs/agents.md", "diff"),
    "crews": blocks("docs/crews.md", "diff"),
    "flows": blocks("docs/flows.md", "diff"),
}
LEFT_OUT = {
    "crews": (
        """
    @tool
    def send_email(to: str, body: str) -> str:
        \"\"\"Send an email.\"\"\"
        report_effect("email")
        return "sent"

    model = "gpt-4o-mini"
    clerk = Agent(role="Clerk", goal="Work", backstory="Old.", llm=model, tools=[send_email])
    task = Task(description="Write about {topic}", expected_output="A reply", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])
"""
    ),
    "agents": (
        """
    \"\"\"Send an email.\"\"\"
    report_effect("email")
    return "sent"
"""
    ),
    "flows": (
        """
    @start()
    def send(self) -> None:
        step(report_effect, "email")

    @listen(send)
    def report(self) -> str:
        return LLM("gpt-4o-mini").call("What was sent?")
"""
    ),
}
"""What stands for the ``...`` of each diff: one email, and a request to the model after it."""

BEFORE = """
from crewai import LLM
from crewai.tools import tool
from crewai_dbos import step
from crewai_dbos.testing import report_effect
Tickets = dict
"""


@pytest.mark.crash
@pytest.mark.parametrize("name", DIFFS)
def test_a_program_changed_by_a_diff_is_killed_and_started_again(name: str, tmp_path: Path) -> None:
    (diff,) = DIFFS[name]
    changed = after(diff).replace("    ...", LEFT_OUT[name].strip("\n"))
    program = tmp_path / "program.py"
    ending = "print(len(DBOS.list_workflows()), 'run')"
    program.write_text("\n".join([BEFORE, changed, ending]))
    held = hang(text("Done."))

    def model(request: Request) -> Reply:
        if request.tools and not request.tool_results:
            return tool_calls(ToolCall("send_email", {"to": "ann", "body": "Good morning."}))
        return held

    log = EffectLog(tmp_path / "effects")
    with ModelServer(model) as server:
        env = {**os.environ, **server.env, EFFECTS: str(log.path)}
        killed = Program(program, folder=tmp_path, env=env)
        held.wait_until_held(timeout=60)
        killed.kill()
        killed.communicate(timeout=60)
        held.release()
        done = python(program, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "1 run" in done.stdout
    assert len(log.read()) == 1


def test_a_request_has_what_the_page_about_testing_says() -> None:
    (line,) = re.findall(r"^- A request has (.+?)\.\n", text_of("docs/testing.md"), re.M | re.S)
    named = re.findall(r"`(\w+)`", line)
    assert len(named) > 5
    assert [name for name in named if not hasattr(Request("/v1/chat/completions", {}), name)] == []


@pytest.mark.crash
def test_the_page_about_testing(tmp_path: Path) -> None:
    for block in blocks("docs/testing.md"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block)

    def run(*arguments: str, **env: str) -> str:
        env = {**os.environ, "HOME": str(tmp_path), **env}
        done = python(*arguments, folder=tmp_path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def model(request: Request) -> Reply:
        if request.tool_results:
            return text("Ann knows.")
        return tool_calls(ToolCall("send_email", {"to": "ann"}))

    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in run(*pytest, "test_support.py"), "nothing of the next section is needed"
    with ModelServer(model) as server:
        run("make_recording.py", **server.env)
    assert len(server.requests) == 2
    assert "1 passed" in run(*pytest, "test_recorded.py")
    assert "1" in run("count.py").splitlines()
