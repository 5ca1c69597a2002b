"""Runs that earlier versions recorded are replayed by this one: nothing is made again.

A release that would break runs in flight fails here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, error, history
from crewai_dbos.testing.effects import EFFECTS, EffectLog
from histories.programs import PROGRAMS
from support.launching import launched

FILES = sorted(Path(__file__).parent.glob("*/*.json"))


def test_there_are_histories_of_every_program() -> None:
    assert {file.stem for file in FILES} == set(PROGRAMS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_recorded_run_is_replayed(
    file: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.loads(file.read_text())
    effects = EffectLog(tmp_path / "effects")
    monkeypatch.setenv(EFFECTS, str(effects.path))
    with ModelServer(lambda request: error(400)) as model:
        for name, value in model.env.items():
            monkeypatch.setenv(name, value)
        with launched(database_url):
            run_id = history.restore(kept, database_url)
            assert history.replayed(run_id) == kept["result"]
        assert model.requests == []
    assert effects.read() == []
