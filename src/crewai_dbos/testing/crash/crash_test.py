"""`CrashTest`: kill a run at every position of its journal, and see whether it survives."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crewai_dbos import _import_path
from crewai_dbos.testing._app import Script
from crewai_dbos.testing.crash import positions, verdict
from crewai_dbos.testing.crash._answering import Answers
from crewai_dbos.testing.crash._outcome import Difference, differences
from crewai_dbos.testing.crash._runs import Runs
from crewai_dbos.testing.crash.errors import CrashTestError
from crewai_dbos.testing.crash.positions import Position
from crewai_dbos.testing.crash.verdict import Observed, Verdict


class CrashTest:
    """Runs a definition in processes of its own, kills them, and judges what recovery made of it.

    Every run has a fresh database and, with `model`, a fresh model server. Use as a context
    manager: processes and databases are gone when it is left.

    Args:
        target: Import path of a `DBOSAgent`, `DBOSCrew` or `DBOSFlow`, or of a function that
            starts one run, ``module:name``. Importing it must not construct `DBOS`.
        inputs: Keyword arguments, JSON data: of the function, of the ``kickoff`` of the crew or
            flow (``{"inputs": {...}}``), of the agent's ``kickoff`` (``{"messages": ...}``), or of
            a task (``{"description": ..., ...}``) for the agent to execute.
        model: A script for a `ModelServer`, as a function or as an import path. The processes
            find the server by ``OPENAI_BASE_URL``. Without one the definition's own model is asked,
            and kills during a request are left out.
        people: A script for the people whom the run asks, as a function or as an import path: it is
            given a `crewai_dbos.control.Request` and returns the answer, or None to leave it open.
            A run is answered when it is left to its row, or has waited for ten seconds.
        setup: Import path of a function to call in each process before ``DBOS.launch()``.
        left_behind: Import path of a function that tells, after the run, what it has done to the
            world, as JSON data: rows of your own database, for one. It has to be the same as
            undisturbed.
        ignore: What need not be the same as undisturbed: ``result``, ``result.token_usage``,
            ``state.<field>`` of a flow, ``left_behind``.
        database: ``sqlite``, or the URL of a Postgres server's database.
        asynchronous: Call ``akickoff`` or ``aexecute_task``.
        fresh: A new interpreter for each process, instead of forks of one that has imported
            `target`.
        environment: Additional environment variables of the processes, from when `target` has been
            imported. Modules are found by ``sys.path`` of this process.
        timeout: Seconds after which a process is taken to hang.

    Raises:
        CrashTestError: `model` is not a function, `inputs` are not JSON data, or `timeout` is none.
            When the first run is made: `target` can't be imported, a run without a fault fails, is
            another one or is not waited for, or the database can't be used.
        NotFoundError: A path is not ``module:name``, or there is nothing at `model`. A
            `ValueError`.

    Example::

        from crewai_dbos.testing import Request, text
        from crewai_dbos.testing.crash import CrashTest

        def model(request: Request):
            return text("Dear customer.")

        with CrashTest("app:agent", {"messages": "Answer ticket 7."}, model=model) as test:
            for verdict in test.run_all(test.positions(10)):
                assert verdict.ok, str(verdict)
    """

    def __init__(
        self,
        target: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        model: Script | str | None = None,
        people: Answers | str | None = None,
        setup: str | None = None,
        left_behind: str | None = None,
        ignore: Collection[str] = (),
        database: str = "sqlite",
        asynchronous: bool = False,
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._order = {
            "target": target,
            "setup": setup,
            "left_behind": left_behind,
            "inputs": dict(inputs or {}),
            "asynchronous": asynchronous,
        }
        named = [path for path in (target, setup, left_behind) if path is not None]
        modules = [_import_path.split(path)[0] for path in named]
        try:
            json.dumps(self._order)
        except TypeError as error:
            raise CrashTestError(f"The inputs have to be JSON data: {error}") from None
        script = _import_path.load(model) if isinstance(model, str) else model
        if script is not None and not callable(script):
            raise CrashTestError(
                f"model is a function from a Request to a reply, not {model!r}: replies in the "
                f"order of arrival would not fit when a request is made again"
            )
        answers = _import_path.load(people) if isinstance(people, str) else people
        if not timeout > 0:
            raise CrashTestError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._ignore = frozenset(ignore)
        self._runs = Runs(
            self._order,
            modules,
            script,
            database=database,
            fresh=fresh,
            environment=dict(environment or {}),
            timeout=timeout,
            people=answers,
        )
        self._deciding = threading.RLock()
        self._undisturbed: Observed | None = None
        self._varying: list[Difference] | None = None

    def __enter__(self) -> CrashTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and drop every database.

        Example::

            from crewai_dbos.testing.crash import CrashTest

            test = CrashTest("app:agent", {"messages": "Answer ticket 7."})
            test.close()
        """
        self._runs.close()

    @property
    def undisturbed(self) -> Observed:
        """A run that nothing happens to; made once.

        Raises:
            CrashTestError: It failed.
        """
        with self._deciding:
            if self._undisturbed is None:
                self._undisturbed = self._observe_undisturbed()
            return self._undisturbed

    def _observe_undisturbed(self) -> Observed:
        observed = self._runs.observe(())
        if unusable := observed.ended.get("unusable"):
            raise CrashTestError(unusable)
        if observed.trouble or "answer" not in observed.ended:
            why = observed.trouble or observed.ended.get("error")
            raise CrashTestError(f"The run fails without any crash: {why}\n{observed.log[-4000:]}")
        return observed

    def positions(self, count: int | None = None, seed: int = 0) -> list[Position]:
        """Where the run can be killed: everywhere, or at `count` places.

        Args:
            count: How many, spread over the names of the entries.
            seed: Chooses which.

        Raises:
            CrashTestError: The run fails, or nothing of it is recorded.

        Example::

            from crewai_dbos.testing.crash import CrashTest

            with CrashTest("app:agent", {"messages": "Hello."}, model="app:script") as test:
                for position in test.positions(10):
                    print(position)
        """
        every = list(positions.positions(self.undisturbed.events))
        if not every:
            raise CrashTestError(
                f"Nothing of {self._order['target']} is recorded, so there is nothing to kill: "
                "does it start a run of a DBOSAgent, DBOSCrew or DBOSFlow?"
            )
        return every if count is None else positions.sample(every, count, seed)

    def run(self, *kills: Position) -> Verdict:
        """Run once; kill the first process at the first position, the next at the second, ...

        The process after those is left alone.

        Raises:
            CrashTestError: It ended otherwise in a field in which runs differ that nothing happens
                to.

        Example::

            from crewai_dbos.testing.crash import CrashTest

            with CrashTest("app:agent", {"messages": "Hello."}, model="app:script") as test:
                first, second = test.positions(2)
                assert test.run(first, second).ok, "killed twice, it still ends as if undisturbed"
        """
        expected = self.undisturbed
        judged = verdict.judge(self._runs.observe(kills), expected, kills, self._ignore)
        if judged.differences:
            self._check_is_the_same_each_time({each.field for each in judged.differences})
        return judged

    def run_all(self, kills: Sequence[Position], at_once: int = 4) -> Iterator[Verdict]:
        """A run for each position, `at_once` of them at the same time, in the given order.

        Example::

            from crewai_dbos.testing.crash import CrashTest

            with CrashTest("app:agent", {"messages": "Hello."}, model="app:script") as test:
                for verdict in test.run_all(test.positions(10), at_once=2):
                    assert verdict.ok, str(verdict)
        """
        with ThreadPoolExecutor(at_once) as pool:
            yield from pool.map(self.run, kills)

    def _check_is_the_same_each_time(self, fields: Collection[str]) -> None:
        """Make a second undisturbed run, if a killed one differs in `fields`."""
        with self._deciding:
            if self._varying is None:
                first, second = self.undisturbed, self._observe_undisturbed()
                self._varying = list(differences(second.ended, first.ended, self._ignore))
        varying = [each for each in self._varying if each.field in fields]
        if varying:
            differ = "; ".join(f"{each.field} is {each.usual} and {each.found}" for each in varying)
            names = [each.field for each in varying]
            raise CrashTestError(
                f"Two runs that nothing happened to differ: {differ}. So a run that was "
                "killed can't be compared. Have it come out the same each time, or leave that out: "
                f"ignore={names}, on the command line {' '.join(f'--ignore {n}' for n in names)}"
            )
