"""The pytest plugin: one test for each position of a crash matrix.

    @pytest.mark.crash_matrix("app:agent", {"messages": "Hello."}, model="app:script")
    def test_survives(crash_run):
        assert crash_run.ok, crash_run

The arguments of the mark are those of `CrashTest`, and ``positions=`` and ``seed=`` for a sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crewai_dbos.testing.effects import EFFECTS, EffectLog

if TYPE_CHECKING:
    from crewai_dbos.testing.crash import CrashTest, Verdict

_tests = pytest.StashKey[dict[str, "CrashTest"]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "crash_matrix(target, inputs, *, model, setup, left_behind, database, asynchronous, fresh, "
        "environment, timeout, positions, seed): run the test once for each position at which a "
        "run of target is killed; it gets a Verdict as crash_run.",
    )
    config.stash[_tests] = {}


def pytest_unconfigure(config: pytest.Config) -> None:
    for test in config.stash.get(_tests, {}).values():
        test.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "crash_run" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("crash_matrix")
    if mark is None:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} uses crash_run without @pytest.mark.crash_matrix(...)"
        )
    options = dict(mark.kwargs)
    count, seed = options.pop("positions", None), options.pop("seed", 0)
    test = _test(metafunc.config, mark.args, options)
    chosen = [(test, position) for position in test.positions(count, seed)]
    metafunc.parametrize("crash_run", chosen, ids=[str(p) for _, p in chosen], indirect=True)


@pytest.fixture
def crash_run(request: pytest.FixtureRequest) -> Verdict:
    """What became of the run that was killed at this test's position."""
    test, position = request.param
    verdict: Verdict = test.run(position)
    return verdict


@pytest.fixture
def effect_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EffectLog:
    """Counts what `report_effect` is told, in this process and those that it starts."""
    log = EffectLog(tmp_path / "effects")
    monkeypatch.setenv(EFFECTS, str(log.path))
    return log


def _test(config: pytest.Config, args: tuple[Any, ...], options: dict[str, Any]) -> CrashTest:
    from crewai_dbos.testing.crash import CrashTest

    known = config.stash[_tests]
    key = repr((args, sorted(options.items())))
    if key not in known:
        known[key] = CrashTest(*args, **options)
    return known[key]
