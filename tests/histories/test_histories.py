"""Runs that earlier versions recorded are replayed by this one: nothing is made again.

A release that would break runs in flight fails here.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, error, history
from crewai_dbos.testing.effects import EFFECTS, EffectLog
from histories.programs import PROGRAMS
from support.databases import some_here
from support.launching import launched

FILES = sorted(Path(__file__).parent.glob("*/*.json"))


def named(given: Path | str) -> str:
    return given if isinstance(given, str) else f"{given.parent.name}-{given.stem}"


def test_there_are_histories_of_every_program() -> None:
    assert {file.stem for file in FILES} == set(PROGRAMS)


NEWEST = FILES[-1].parent
# DBOS's rows of a kind each: what reads them is the same on both.
ON_BOTH = [NEWEST / f"{name}.json" for name in ("crew", "flow", "office")]
RUNS = some_here(
    itertools.product(FILES, ["sqlite", "postgres"]),
    [*((file, "sqlite") for file in FILES), *((file, "postgres") for file in ON_BOTH)],
)


@pytest.mark.parametrize(("file", "database_url"), RUNS, indirect=["database_url"], ids=named)
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
