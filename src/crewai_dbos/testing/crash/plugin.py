"""The pytest plugin: one test for each position of a crash matrix.

    @pytest.mark.crash_matrix("app:agent", {"messages": "Hello."}, model="app:script")
    def test_survives(crash_run):
        assert crash_run.ok, crash_run

The arguments of the mark are those of `CrashTest`, and ``positions=`` and ``seed=`` for a sample.
The positions of the next tests are worked on while one is looked at, as a recovery mostly waits;
under pytest-xdist each worker works on its own test only.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crewai_dbos.testing.effects import EFFECTS, EffectLog

if TYPE_CHECKING:
    from crewai_dbos.testing.crash import CrashTest, Position, Verdict

AT_ONCE = 4

_tests = pytest.StashKey[dict[str, "CrashTest"]]()
_runs = pytest.StashKey["_Runs"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "crash_matrix(target, inputs, *, model, setup, left_behind, database, asynchronous, fresh, "
        "environment, timeout, positions, seed): run the test once for each position at which a "
        "run of target is killed; it gets a Verdict as crash_run.",
    )
    config.stash[_tests] = {}
    config.stash[_runs] = _Runs()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _runs in config.stash:
        config.stash[_runs].close()
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


def pytest_collection_finish(session: pytest.Session) -> None:
    # A worker of xdist collects every test and is given some of them.
    if hasattr(session.config, "workerinput"):
        return
    for item in session.items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "crash_run" in callspec.params:
            session.config.stash[_runs].plan.append(callspec.params["crash_run"])


@pytest.fixture
def crash_run(request: pytest.FixtureRequest) -> Verdict:
    """What became of the run that was killed at this test's position."""
    return request.config.stash[_runs].verdict(*request.param)


class _Runs:
    """Runs that are under way, some ahead of the test that asks for them.

    Attributes:
        plan: What will be asked for, in this order.
    """

    def __init__(self) -> None:
        self.plan: list[tuple[CrashTest, Position]] = []
        self._begun: dict[tuple[int, Position], Future[Verdict]] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE)

    def verdict(self, test: CrashTest, position: Position) -> Verdict:
        at = self.plan.index((test, position)) if (test, position) in self.plan else None
        ahead = [] if at is None else self.plan[at + 1 : at + AT_ONCE]
        for next_test, next_position in [(test, position), *ahead]:
            if next_test is test:
                self._begin(test, next_position)
        return self._begun.pop((id(test), position)).result()

    def _begin(self, test: CrashTest, position: Position) -> None:
        key = (id(test), position)
        if key not in self._begun:
            self._begun[key] = self._pool.submit(test.run, position)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


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
