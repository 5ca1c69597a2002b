"""What a history lacks is not made again when it is replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dbos import DBOS

from crewai_dbos.errors import DefinitionError
from crewai_dbos.testing import ModelServer, history
from crewai_dbos.testing.effects import EFFECTS, EffectLog
from crewai_dbos.testing.history import NotRecordedError
from histories.programs import PROGRAMS
from support.databases import some_here
from support.entries import some
from support.launching import launched
from support.python import python

FILES = sorted((Path(__file__).parent / "0.1.0").glob("*.json"))
# The calls of "native" are among those of each of these.
HERE = [file for file in FILES if file.stem != "native"]


@pytest.mark.some_entries
@pytest.mark.parametrize("file", some_here(FILES, HERE), ids=lambda file: str(file.stem))
def test_calls_that_were_taken_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = json.loads(file.read_text())
    _, script = PROGRAMS[file.stem]
    effects = EffectLog(tmp_path / "effects")
    monkeypatch.setenv(EFFECTS, str(effects.path))
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    (run,) = saved["runs"].values()
    # It would answer, and the letters would be sent.
    with ModelServer(script) as model:
        for name, value in model.env.items():
            monkeypatch.setenv(name, value)
        with launched(url):
            for left, lacking in some(enumerate(run["steps"]), lambda at: at[1]["function_name"]):
                cut = {**run, "steps": run["steps"][:left]}
                run_id = f"the first {left}"
                history.restore({**saved, "run_id": run_id, "runs": {run_id: cut}}, url)
                with pytest.raises(NotRecordedError) as refusal:
                    history.replayed(run_id)
                # Calls that run side by side come in any order.
                if file.stem != "parallel":
                    assert f"{lacking['function_name']} is not recorded" in str(refusal.value)
            statuses = {run.status for run in DBOS.list_workflows()}
            assert statuses == {"SUCCESS", "CANCELLED"}
        assert model.all_requests == []
    assert effects.read() == []


@pytest.mark.crash
@pytest.mark.some_entries
def test_code_of_the_users_own(tmp_path: Path) -> None:
    """Child workflows, transactions, steps inside a tool and of handlers of events."""
    folder = Path(__file__).parents[1]
    ran = python("-m", "histories.own_code", tmp_path, folder=folder, timeout=280)
    assert ran.returncode == 0, ran.stderr
    (lacks_nothing, *others) = json.loads((tmp_path / "outcomes").read_text())
    assert lacks_nothing["ended"] == "equal"
    assert {each["ended"] for each in others} == {"NotRecordedError"}
    assert {"order", "enter", "stamp"} <= {each["lacks"] for each in others}
    assert [each for each in others if each["after"] != each["before"]] == []


def test_a_run_of_something_that_is_not_here(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/dbos.sqlite"
    office, native = (
        next(file.read_text() for file in FILES if file.stem == name)
        for name in ("office", "native")
    )
    with launched(url):
        missing = history.restore(json.loads(office.replace("histories.office", "nowhere.x")), url)
        with pytest.raises(DefinitionError, match=r"workflow 'nowhere\.x', which is not in this"):
            history.replayed(missing)
        nobody = native.replace('agent\\":\\"native', 'agent\\":\\"nobody')
        missing = history.restore(json.loads(nobody), url)
        with pytest.raises(DefinitionError, match="no DBOSAgent named 'nobody' is defined"):
            history.replayed(missing)
        with pytest.raises(LookupError, match="There is no run 'other'"):
            history.replayed("other")
