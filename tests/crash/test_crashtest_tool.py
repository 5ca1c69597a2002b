"""The crash matrix as users have it: a pytest mark, a command, and verdicts that can be trusted."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crash import models
from crash.names import ASK
from crewai_dbos.testing.crash import CrashTest, CrashTestError, Verdict, report
from pages.blocks import blocks, text_of
from support.crashing import survives
from support.entries import EVERY, how_many
from support.python import python

pytestmark = pytest.mark.crash

CLI = ["-m", "crewai_dbos.cli", "crashtest"]
PAGE = text_of("docs/prove-it-survives.md")
BLOCKS = blocks("docs/prove-it-survives.md")
TOLD = " ".join(re.findall(r"ends with `(.*?)`", PAGE, re.DOTALL)[0].split())
SURVIVED = TOLD.split()[0]


@pytest.mark.crash_matrix(
    "crash.application:native_postman",
    {"messages": ASK},
    model="crash.models:ann_and_bob",
    positions=3,
    seed=1,
)
def test_the_mark_makes_a_test_of_each_position(
    crash_run: Verdict, request: pytest.FixtureRequest
) -> None:
    assert crash_run.ok, str(crash_run)
    assert f"[{crash_run.positions[0]}]" in request.node.name
    assert crash_run.observed.deaths == 1
    assert {effect.fields["to"] for effect in crash_run.observed.effects} == {"Ann", "Bob"}


def test_a_journal_by_order_of_arrival_fails() -> None:
    """Parallel calls whose results are swapped after a crash are not taken for survivors."""
    # Five, so that they arrive in another order after one crash or another.
    script = models.letters(["Ann", "Bob", "Eve", "Dan", "Fay"])
    order = {"messages": ASK}
    with CrashTest("crash.broken:native_postman", order, model=script) as broken:
        assert [e.fields["to"] for e in broken.undisturbed.effects]
        # The first crash that does it will do: rather one that comes when most are recorded.
        latest_first = reversed(broken.positions())
        every = sorted(latest_first, key=lambda position: "/tool:" not in position.entry)
        swapped = next((v for v in map(broken.run, every) if not v.result_equal), None)
    assert swapped is not None
    assert not swapped.ok


def test_the_state_of_a_flow_is_compared() -> None:
    with CrashTest("crash.stateful:flow") as test:
        during = next(position for position in test.positions() if position.moment == "during")
        verdict = test.run(during)
    assert verdict.problems == ["state.times is 2, undisturbed 1"]
    assert verdict.result_equal


def test_what_differs_by_itself_is_said_once() -> None:
    with CrashTest("crash.stateful:varying") as test:
        during = next(position for position in test.positions() if position.moment == "during")
        with pytest.raises(CrashTestError, match="Two runs that nothing happened to") as refused:
            test.run(during)
    said = str(refused.value)
    assert "ignore=['state.process']" in said
    assert re.search(r"state\.process is …[^…]*before \d+ long[^…]*… and …", said)
    assert len(said) < 700, "what is the same is not printed"
    with CrashTest("crash.stateful:varying", ignore=["state.process"]) as test:
        assert test.run(during).ok


def test_a_second_undisturbed_run_that_fails_is_no_difference(tmp_path: Path) -> None:
    inputs = {"inputs": {"begun": str(tmp_path / "begun")}}
    with CrashTest("crash.stateful:unsteady", inputs) as test:
        during = next(position for position in test.positions() if position.moment == "during")
        with pytest.raises(CrashTestError, match=r"fails without any crash: .*no room left"):
            test.run(during)


def test_what_is_left_behind_does_not_hide_why_a_run_failed(tmp_path: Path) -> None:
    inputs = {"inputs": {"begun": str(tmp_path / "begun"), "fails": 3}}
    left = "crash.stateful:left_by_what_has_not_failed"
    ignore = ["state.process"]
    with CrashTest("crash.stateful:unsteady", inputs, left_behind=left, ignore=ignore) as test:
        during = next(position for position in test.positions() if position.moment == "during")
        verdict = test.run(during)
    result, left_behind, *_ = verdict.problems
    assert result.startswith("result is")
    assert "no room left" in result
    assert left_behind == (
        'left_behind is "FileNotFoundError: no letters", undisturbed "letters"'
    ), verdict.problems


def test_effects_that_nobody_reports_and_tools_that_are_not_recorded() -> None:
    script = models.letters(["Ann"])
    with CrashTest("crash.silent:agent", {"messages": ASK}, model=script) as test:
        verdict = test.run(test.positions()[-1])
        log = test.undisturbed.log
    assert verdict.ok, str(verdict)
    shown = io.StringIO()
    console = Console(file=shown, width=160)
    report.show([verdict], console)
    console.print(report.line(verdict, 1, 1))
    told = " ".join(shown.getvalue().split())
    assert "No effects were reported: put report_effect into your tools" in told
    assert "effects not reported" in told
    assert "Not recorded, so made again in every run that goes on: send_letter." in told
    data = report.as_data([verdict])
    assert (data["effects_reported"], data["unrecorded_tools"]) == (False, ["send_letter"])
    assert " completed recorded calls 0 were made again." in told
    assert "DBOS launched" not in log, "what goes well is no part of a report"


HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
"""What a program is started with that imports the tests' own modules."""


def test_a_test_that_passes_warns_of_what_it_does_not_show(tmp_path: Path) -> None:
    mark = '@pytest.mark.crash_matrix("{}", {{"messages": "Tell."}}, model="{}", positions=1)'
    reply = 'from crash import models\nsilent = models.letters(["Ann"])\n'
    (tmp_path / "scripted.py").write_text(reply)
    for name, target in (
        ("silent", "crash.silent:agent"),
        ("told", "crash.application:native_postman"),
    ):
        model = "scripted:silent" if name == "silent" else "crash.models:ann_and_bob"
        lines = ["import pytest", mark.format(target, model), f"def test_{name}(crash_run):"]
        lines += ["    assert crash_run.ok, str(crash_run)"]
        (tmp_path / f"test_{name}.py").write_text("\n".join(lines))
    options = ["-q", "-p", "no:cacheprovider"]
    ran = python("-m", "pytest", *options, folder=tmp_path, env=HERE, timeout=280, crash_tests=True)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    warned = " ".join(ran.stdout.split())
    for said in (
        "UserWarning: Not recorded, so made again in every run that goes on: send_letter.",
        "UserWarning: No effects were reported: put report_effect into your tools",
    ):
        assert warned.count(said) == 1, ran.stdout


def test_the_ids_of_tasks_may_differ() -> None:
    """They are in what an output tells of failed tools; a crew that is built anew has new ones."""
    script = "crash.failing_tool:script"
    with CrashTest("crash.failing_tool:crew", model=script) as test:
        last = test.positions()[-1]
        assert "ToolFailureRecord" in str(test.undisturbed.ended)
        verdict = test.run(last)
    assert verdict.ok, str(verdict)


def test_a_module_that_starts_a_thread() -> None:
    """Its thread would be missing in a fork."""
    survives(
        "crash.threaded:native_postman",
        {"messages": ASK},
        lambda test: test.positions(2),
        model=models.ann_and_bob,
        setup="crash.threaded:ask",
    )


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python(*CLI, *arguments, folder=folder, timeout=280, crash_tests=True)


@pytest.mark.some_entries
def test_the_page_of_the_docs(tmp_path: Path) -> None:
    for block in BLOCKS:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block)
    ran = python(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *([] if EVERY else ["-k", "crew or during"]),
        folder=tmp_path,
        timeout=280,
        crash_tests=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout.splitlines()[-1]
    passed, *left_out = map(int, re.findall(r"(\d+) (?:passed|deselected)", told))
    assert passed + sum(left_out) == int(SURVIVED) + 4, told
    assert EVERY or passed == 4 + 4
    ran = python("by_hand.py", folder=tmp_path, timeout=280, crash_tests=True)
    assert ran.stdout.splitlines()[-1:] == ["True"], ran.stdout + ran.stderr


@pytest.mark.some_entries
def test_the_command_says_what_survived_and_what_did_not(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(BLOCKS[0])
    prints = BLOCKS[0].replace("@tool\n@DBOS.step()\n", "print('imported')\n\n\n@tool\n")
    prints = prints.replace("(request):\n", "(request):\n    print('asked')\n")
    (tmp_path / "bad.py").write_text(prints)
    options = ["--inputs", '{"messages": "Tell Ann and Bob."}']

    number = how_many(5, int(SURVIVED))
    some = ["--positions", str(number)]
    good = command("good:agent", "--model", "good:script", *options, *some, folder=tmp_path)
    assert good.returncode == 0, good.stdout + good.stderr
    told = " ".join(good.stdout.split())
    assert TOLD.replace(SURVIVED, str(number)) in told

    (tmp_path / "inputs.json").write_text(options[1])
    number = how_many(5, 10)
    options = ["--inputs", "@inputs.json", "--json", "--positions", str(number)]
    bad = command("bad:agent", "--model", "bad:script", *options, folder=tmp_path)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    figures: dict[str, Any] = json.loads(bad.stdout)
    assert figures["repeated"] == 0
    # Any kill repeats their emails, but for one before they were sent or after the run has ended.
    survived = [run["position"].rpartition("/")[2] for run in figures["runs"] if run["ok"]]
    assert all(each.startswith("llm#1-") or each == "result-after" for each in survived)
    assert figures["survived"] == len(survived) == how_many(3, 5)
    assert figures["positions"] == number
    again = [run["effects_repeated"] for run in figures["runs"] if not run["ok"]]
    assert any('email {"to": "ann"}' in effects for effects in again)
    problems = " ".join(problem for run in figures["runs"] for problem in run["problems"])
    assert 'email {"to": "ann"} (process 1, ' in problems
    assert "; process 2, " in problems, problems


APART = """
import threading

from dbos import DBOS, SetWorkflowID


@DBOS.workflow()
def work(wait: bool) -> str:
    if wait:
        threading.Event().wait()
    return "done"


def under_another_id():
    with SetWorkflowID("mine"):
        return work(False)


def without_waiting():
    DBOS.start_workflow(work, True)
"""


def test_arguments_that_can_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(BLOCKS[0])
    (tmp_path / "broken.py").write_text("import nowhere")
    construct = "\nDBOS(config={'name': 'mine', 'system_database_url': 'sqlite:///mine.sqlite'})\n"
    (tmp_path / "launched.py").write_text(BLOCKS[0] + construct)
    late = f"from dbos import DBOS\n\n\ndef launch():\n    {construct.strip()}\n"
    (tmp_path / "late.py").write_text(f"{late}\n\ndef things():\n    return {{1}}\n")
    (tmp_path / "apart.py").write_text(APART)
    hello = '{"messages":"Hello."}'
    wrong = {
        "good": "'good' is not an import path. It is module:object, as app:agent.",
        "good:nobody": "good has no 'nobody'.",
        "good:agent --model good:scrip": "good has no 'scrip'. Did you mean 'script'?",
        "good:agent --inputs {": "--inputs is not JSON: Expecting",
        "good:agent --setup good:nope": "good has no 'nope'.",
        "good:agent --setup late:launch": "good:agent or late:launch constructs DBOS",
        "good:agent --model good:script --left-behind late:things "
        f"--inputs {hello}": "What late:things returns has to be JSON data",
        "good:agent --timeout 0": "be greater than or equal to 1",
        'good:text --inputs {"content":"Hello."}': "that run was never started, "
        "so there is nothing to kill",
        "apart:under_another_id": "has to start one run, under the workflow id that is set when it "
        "is called, and wait for it. When it returned, that run was never started",
        "apart:without_waiting": "and wait for it. When it returned, that run was PENDING",
        "good:agent --inputs @nowhere.json": "--inputs can't be read: [Errno 2] No such file",
        'crash.stateful:flow --inputs {"topic":"x"}': "These are not the arguments of its "
        "kickoff: got an unexpected keyword argument 'topic'. "
        'Perhaps you mean: {"inputs": {"topic": "x"}}',
        "good:agent --inputs [1]": "--inputs is a JSON object, as",
        "good:agent --database mysql://nowhere": "The database is sqlite or postgresql://",
        "good:agent --database postgresql://nobody@127.0.0.1:1/x": "can't be used: connection",
        "good:agent --model good:agent.tools": "model is a function from a Request to a reply",
        "launched:agent": "launched:agent constructs DBOS",
        "broken:agent": "Importing broken failed: ModuleNotFoundError: No module named 'nowhere'",
    }
    # One process for all, as importing crewAI takes seconds.
    program = (
        "import json, sys; from typer.testing import CliRunner; from crewai_dbos.cli import app\n"
        "ended = [CliRunner().invoke(app, ['crashtest', *a.split()]) for a in sys.argv[1:]]\n"
        "print(json.dumps([(each.exit_code, each.stderr) for each in ended]))"
    )
    ran = python("-c", program, *wrong, folder=tmp_path, env=HERE, timeout=280, crash_tests=True)
    assert ran.returncode == 0, ran.stderr
    for (code, said), told in zip(json.loads(ran.stdout), wrong.values(), strict=True):
        assert code == 2, said
        assert told in said


def test_marks_that_can_mean_nothing_and_runs_that_fail_without_a_crash(tmp_path: Path) -> None:
    mute = "\n\ndef mute(request):\n    raise KeyError(request.number)\n"
    (tmp_path / "good.py").write_text(BLOCKS[0] + mute)
    (tmp_path / "broken.py").write_text("import nowhere")
    hello = '{"messages": "Tell Ann and Bob."}'
    mark = "@pytest.mark.crash_matrix"
    # The mark, what the test takes, and what is said of it.
    tests = {
        "typo": (f'{mark}("good:agent", {hello}, modell="x")', "crash_run", "argument 'modell'"),
        "data": (f'{mark}("good:agent", {{"messages": {{1}}}})', "crash_run", "to be JSON data"),
        "forgot": (f'{mark}("good:agent", {hello})', "", "does not take crash_run"),
        "bare": ("", "crash_run", "takes crash_run without"),
        "import": (f'{mark}("broken:agent", {hello})', "crash_run", "Importing broken failed"),
        "nobody": (f'{mark}("good:nobody", {hello})', "crash_run", "good has no 'nobody'."),
        "script": (f'{mark}("good:agent", {hello}, model="good:mute")', "crash_run", "KeyError: 1"),
        "late": (f'{mark}("good:agent", {hello}, timeout=0)', "crash_run", "seconds above 0"),
        "none": (
            f'{mark}("good:agent", {hello}, model="good:script", positions=0)',
            "crash_run",
            "0 positions are none",
        ),
        "inputs": (f'{mark}("good:agent", model="good:script")', "crash_run", "'messages'"),
        "other": ("", "", ""),
    }
    for name, (marked, takes, _) in tests.items():
        lines = ["import pytest", marked, f"def test_{name}({takes}):", "    pass"]
        (tmp_path / f"test_{name}.py").write_text("\n".join(lines))
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--continue-on-collection-errors"]
    ran = python("-m", "pytest", *options, folder=tmp_path, timeout=280, crash_tests=True)
    assert "1 passed, 10 errors" in ran.stdout, ran.stdout + ran.stderr
    _, *sections = re.split(r"^_+ ERROR .*?test_", ran.stdout, flags=re.MULTILINE)
    said = {re.split(r"\W", section)[0]: section for section in sections}
    for name, (_, _, expected) in tests.items():
        assert expected in said.get(name, ""), said
