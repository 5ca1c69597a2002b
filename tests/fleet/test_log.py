"""What the log of `crewai-dbos worker` says, line by line."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from crewai_dbos.control import Control
from crewai_dbos.testing import ModelServer, error, text
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from fleet import jobs
from fleet.test_command import APP, ask
from people.conftest import until
from support.postgres import Postgres

pytestmark = pytest.mark.crash

LINE = re.compile(r"(?m)^\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}[+-]\d\d:\d\d ([A-Z]+) +(\w+): (.*)$")

CREW = """
from crewai import Agent, Crew, Task
from crewai_dbos import DBOSCrew

def build():
    clerk = Agent(role="Clerk", goal="Answer", backstory="Old", llm="gpt-4o-mini")
    task = Task(description="Answer.", expected_output="A line.", agent=clerk)
    return Crew(agents=[clerk], tasks=[task])

crew = DBOSCrew(crew_name="answers", orig_crew=build)
"""

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the command for a module in the folder; returns when it carries out runs."""

    def started(module: str, url: str, *options: str, **environment: str) -> Process:
        (tmp_path / "app.py").write_text(module)
        arguments = ["worker", "app", "--db-url", url, "--version", "1", *options]
        order = {"folder": str(tmp_path), "arguments": arguments}
        log = tmp_path / f"{len(list(tmp_path.glob('*.log')))}.log"
        job = Job(f"{jobs.__name__}:command_until_stopped", order, log, environment)
        process = fork_server(jobs.__name__).start(job)
        until(lambda: "carries out" in process.output())
        return process

    return started


def stop(process: Process) -> str:
    os.kill(process.pid, signal.SIGTERM)
    end = process.wait()
    assert end.code == 0, process.output()
    return process.output()


def lines(output: str) -> list[tuple[str, str, str]]:
    """Level, logger and text of each."""
    return LINE.findall(output)


def test_each_line_has_its_time_and_level(start: Start, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    said = stop(start(APP, url, "--log-level", "info"))
    assert ("INFO", "dbos", "DBOS launched!") in lines(said)
    assert len(lines(said)) == len(said.splitlines()), said

    quiet = stop(start(APP, url))
    assert [line[:2] for line in lines(quiet)] == [("INFO", "crewai_dbos")] * 2, quiet
    assert " carries out flow greeting. " in quiet
    assert quiet.splitlines()[-1].endswith(" has stopped.")


def test_lines_of_json(start: Start, tmp_path: Path) -> None:
    said = stop(start(APP, f"sqlite:///{tmp_path}/app.sqlite", "--log-format", "json"))
    told = [json.loads(line) for line in said.splitlines()]
    assert {"time", "level", "logger", "message"} == set(told[0])
    assert told[0]["level"] == "info"
    assert "carries out" in told[0]["message"]


SHOP = """
import logging
logging.basicConfig(level=logging.DEBUG)
logger = logging.getLogger("shop")
logger.debug("a small line")
logger.info("a line")
exec(compile("logging.getLogger('books').info('a line of a library')", LIBRARY, "exec"))
logging.getLogger("tax").setLevel(logging.INFO)
exec(compile("logging.getLogger('tax').info('a line that is wanted')", LIBRARY, "exec"))
"""


@pytest.mark.parametrize(("level", "small"), [(None, False), ("debug", True), ("warning", None)])
def test_lines_of_the_application_and_of_libraries(
    start: Start, tmp_path: Path, level: str | None, small: bool | None
) -> None:
    module = SHOP.replace("LIBRARY", repr(os.path.join(os.path.dirname(pytest.__file__), "x.py")))
    # A worker that logs warnings only says nothing of its start.
    begun = "" if small is not None else "logging.getLogger('shop').warning('carries out')\n"
    options = [] if level is None else ["--log-level", level]
    url = f"sqlite:///{tmp_path}/app.sqlite"
    process = start(f"{module}{APP}{begun}", url, *options)
    if level == "warning":
        process.kill()
        said = process.output()
    else:
        said = stop(process)
    told = [text for _, name, text in lines(said) if name in ("shop", "books", "tax")]
    of_shop = ["a small line"] * bool(small) + ["a line"] * (small is not None)
    assert told == [*of_shop, "a line that is wanted", *(["carries out"] if begun else [])], said


@pytest.mark.parametrize("disables", [True, False])
def test_the_logging_that_a_module_sets_up_holds_for_all(
    start: Start, tmp_path: Path, disables: bool
) -> None:
    config = {
        "version": 1,
        "disable_existing_loggers": disables,
        "formatters": {"its": {"format": "MINE %(name)s %(message)s"}},
        "handlers": {"its": {"class": "logging.StreamHandler", "formatter": "its"}},
        "root": {"handlers": ["its"], "level": "INFO"},
    }
    module = f"import logging.config\nlogging.config.dictConfig({config!r})\n{APP}"
    url = f"sqlite:///{tmp_path}/app.sqlite"
    said = stop(start(module, url, "--log-level", "info"))
    assert "MINE dbos DBOS launched!" in said
    assert re.search(r"MINE crewai_dbos Worker .* carries out", said)
    assert all(line.startswith("MINE ") for line in said.splitlines()), said


def test_the_last_line_names_what_has_not_ended(start: Start, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    ask(url)
    (tmp_path / "hang").touch()
    process = start(APP, url, "--grace", "0")
    until(lambda: (tmp_path / "begun").exists())
    level, _, said = lines(stop(process))[-1]
    assert level == "WARNING"
    assert said.endswith(
        " has stopped. 1 of its runs has not ended, and goes on at another worker or at the next "
        "that is started: one"
    )


def test_a_run_that_begins_and_ends_is_told_of(start: Start, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    with ModelServer(lambda _: text("done")) as model:
        process = start(CREW, url, **model.env)
        with Control(url) as control:
            control.kickoff("answers", {}, run_id="well")
            until(lambda: control.run("well").state == "done")
            tokens = control.run("well").tokens.total
    of_run = [line for line in lines(stop(process)) if "Run well" in line[2]]
    begun, done = of_run
    assert begun == ("INFO", "crewai_dbos", "Run well (crew answers) begins.")
    assert done[0] == "INFO"
    assert re.fullmatch(
        rf"Run well \(crew answers\) is done: \d+\.\d s, {tokens} tokens\.", done[2]
    ), done


@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_model_that_refuses(start: Start, tmp_path: Path, level: str) -> None:
    url = f"sqlite:///{tmp_path}/app.sqlite"
    with ModelServer(lambda _: error(401)) as model:
        process = start(CREW, url, "--log-level", level, **model.env)
        with Control(url) as control:
            control.kickoff("answers", {}, run_id="refused")
            until(lambda: control.run("refused").state == "failed")
    said = stop(process)
    logged = said[said.index("Exception encountered in background workflow") :]
    assert "Incorrect API key" in logged
    errors = [told for what, _, told in lines(said) if what == "ERROR"]
    (failed,) = [told for told in errors if told.startswith("Run refused")]
    at = r"crew:answers#1/\S*/llm#\d+"
    assert re.match(rf"Run refused \(crew answers\) failed at {at}: AuthenticationError: ", failed)
    assert "Incorrect API key" in failed
    assert ("_journal" in logged) == (level == "debug")
    if level == "info":
        assert logged.count("Traceback (most recent call last)") == 1
        assert len(logged.splitlines()) < 60, logged


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_is_away_is_told_of_once(
    start: Start, database_url: str, postgres: Postgres
) -> None:
    process = start(APP, database_url, "--log-level", "debug", "--lease", "2")

    def since(output: str) -> list[tuple[str, str, str]]:
        return lines(output[len(before) :])

    def repeated() -> int:
        found = since(process.output())
        return sum(level == "DEBUG" and "connection failed" in text for level, _, text in found)

    before = process.output()
    postgres.stop()
    try:
        until(lambda: "does not answer" in process.output())
        until(lambda: repeated() > 5)
    finally:
        postgres.start()
    until(lambda: "answers again" in process.output())
    told = [line for line in since(stop(process)) if line[0] != "DEBUG"]
    levels = [(level, logger) for level, logger, _ in told]
    assert levels[:2] == [("ERROR", "crewai_dbos"), ("WARNING", "crewai_dbos")], told
    assert re.search(r"again, after \d+ s", told[1][2])
    assert {level for level, _ in levels[2:]} <= {"INFO"}, told
