"""A module that is run again replaces its definitions; nothing else may define a name twice."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

from crewai_dbos.errors import DefinitionError
from support.launching import launched_in
from support.names import unique

SOURCE = """
from crewai.flow.flow import Flow, start
from crewai_dbos import DBOSFlow

class Greeting(Flow):
    @start()
    def greet(self):
        return {greeting!r}

greeting = DBOSFlow(flow_name={name!r}, orig_flow=Greeting)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_a_module_that_is_reloaded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, flow = unique("greetings"), unique("flow")
    path = folder / f"{name}.py"
    path.write_text(SOURCE.format(greeting="Good morning.", name=flow))
    module = importlib.import_module(name)
    old = module.greeting
    with launched_in(folder):
        assert old.kickoff() == "Good morning."
        path.write_text(SOURCE.format(greeting="Good evening.", name=flow))
        importlib.reload(module)
        assert module.greeting.kickoff() == "Good evening."
    (line,) = [each.getMessage() for each in caplog.records if each.name == "crewai_dbos"]
    assert f"Flow {flow!r} is defined anew" in line
    assert caplog.records[-1].levelno <= logging.WARNING


@pytest.mark.parametrize("code_name", ["<module>", "<cell line: 1>"])
def test_a_cell_that_is_run_again(code_name: str, folder: Path) -> None:
    notebook = ModuleType(unique("notebook"))
    sys.modules[notebook.__name__] = notebook
    flow = unique("flow")
    with launched_in(folder):
        for greeting in ("Good morning.", "Good evening."):
            source = SOURCE.format(greeting=greeting, name=flow)
            code = compile(source, f"/tmp/ipykernel/{greeting}", "exec")
            exec(code.replace(co_name=code_name), vars(notebook))
            assert notebook.greeting.kickoff() == greeting
    del sys.modules[notebook.__name__]


def test_what_is_no_second_time_of_the_same_code_is_refused(folder: Path) -> None:
    flow = unique("flow")
    source = SOURCE.format(greeting="Good morning.", name=flow)
    twice = source + source.splitlines()[-1]
    with pytest.raises(DefinitionError, match="a cell that is run again replaces it"):
        exec(compile(twice, "twice.py", "exec"), vars(ModuleType(unique("module"))))
    with pytest.raises(DefinitionError, match="is defined already"):
        exec(compile(source, "other.py", "exec"), vars(ModuleType(unique("module"))))
