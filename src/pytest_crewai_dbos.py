"""The pytest plugin: one test for each position of a crash matrix.

    @pytest.mark.crash_matrix("app:agent", {"messages": "Hello."}, model="app:script")
    def test_survives(crash_run):
        assert crash_run.ok, str(crash_run)

The arguments of the mark are those of `CrashTest`, and ``positions=`` and ``seed=`` for a sample.
A test that passes warns of what it does not show: tools that are not recorded, effects that are not
reported. If the run fails without any crash, the one test is ``[undisturbed]`` and fails with the
reason.
The positions of the next tests are worked on while one is looked at, as a recovery mostly waits;
under pytest-xdist each worker works on its own test only.

Beside the package and not in it: pytest imports this in every environment that has crewai-dbos, and
importing a module of the package imports DBOS. The package is loaded with the first test that asks
for something of it.
"""

from __future__ import annotations

import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from crewai_dbos.testing.crash import CrashTest, Position, Verdict
    from crewai_dbos.testing.effects import EffectLog

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
    mark = metafunc.definition.get_closest_marker("crash_matrix")
    if "crash_run" not in metafunc.fixturenames:
        if mark in metafunc.definition.own_markers:
            raise _unusable(metafunc, "has @pytest.mark.crash_matrix and does not take crash_run")
        return
    if mark is None:
        raise _unusable(metafunc, "takes crash_run without @pytest.mark.crash_matrix(...)")
    from crewai_dbos.testing.crash import CrashTestError
    from crewai_dbos.testing.crash.positions import in_order_of_names

    options = dict(mark.kwargs)
    count, seed = options.pop("positions", None), options.pop("seed", 0)
    test = _test(metafunc, mark.args, options)
    try:
        # Each worker of xdist learns the positions from a run of its own.
        every = in_order_of_names(test.positions(count, seed))
        chosen: list[Any] = [(test, position) for position in every]
        ids = [str(position) for position in every]
    except CrashTestError as error:
        # One failed test, where an error would keep every other test from being run.
        chosen, ids = [error], ["undisturbed"]
    metafunc.parametrize("crash_run", chosen, ids=ids, indirect=True)


def _unusable(metafunc: pytest.Metafunc, why: str) -> pytest.Collector.CollectError:
    return pytest.Collector.CollectError(f"{metafunc.definition.nodeid} {why}")


def pytest_collection_finish(session: pytest.Session) -> None:
    # A worker of xdist collects every test and is given some of them.
    if hasattr(session.config, "workerinput"):
        return
    for item in session.items:
        callspec = getattr(item, "callspec", None)
        planned = callspec.params.get("crash_run") if callspec is not None else None
        if isinstance(planned, tuple):
            session.config.stash[_runs].plan.append(planned)


@pytest.fixture
def crash_run(request: pytest.FixtureRequest) -> Verdict:
    """What became of the run that was killed at this test's position."""
    if isinstance(request.param, Exception):
        pytest.fail(str(request.param), pytrace=False)
    verdict = request.config.stash[_runs].verdict(*request.param)
    from crewai_dbos.testing.crash.report import not_shown

    for sentence in not_shown([verdict]):
        warnings.warn(sentence, stacklevel=1)  # a test that passes says nothing of it
    return verdict


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
    from crewai_dbos.testing.effects import EFFECTS, EffectLog

    log = EffectLog(tmp_path / "effects")
    monkeypatch.setenv(EFFECTS, str(log.path))
    return log


def _test(metafunc: pytest.Metafunc, args: tuple[Any, ...], options: dict[str, Any]) -> CrashTest:
    from crewai_dbos.testing.crash import CrashTest, CrashTestError

    known = metafunc.config.stash[_tests]
    key = repr((args, sorted(options.items())))
    if key not in known:
        try:
            known[key] = CrashTest(*args, **options)
        except (CrashTestError, TypeError, ValueError) as error:
            raise _unusable(metafunc, f"can't be made into a crash test: {error}") from None
    return known[key]
