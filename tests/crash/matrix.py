"""The crash matrix: kill a run at every position of its journal, recover it, and judge.

`undisturbed` runs it without a fault, `kill_and_recover` with one or more, each in a process of
its own, and `judge` compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.positions import LLM, TOOL, Position, Row, journal
from crash.processes import End, Job, Process
from crewai_dbos.testing import Effect, EffectLog, ModelServer, Reply, Request

Line = tuple[str, ...]
"""A line of the table of matrices: a name and its sums."""


# Running ----------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What the runs of one matrix have in common.

    Attributes:
        script: The model's replies.
        order: The argument of the jobs, beside database and fault.
        run_id: The workflow id that the jobs use.
        start: The job that begins the run, ``module:function``.
        recover: The job that only launches DBOS and waits for the run's answer.
        spawn: Starts a process.
        database: Opens a fresh database and yields its URL.
        directory: For logs.
    """

    script: Callable[[Request], Reply]
    order: dict[str, Any]
    run_id: str
    start: str
    recover: str
    spawn: Callable[[Job], Process]
    database: Callable[[], AbstractContextManager[str]]
    directory: Path


@dataclass(frozen=True)
class Sight:
    """What could be seen of a run when one of its processes had ended."""

    end: End
    rows: list[Row]
    requests: list[Request]
    effects: list[Effect]


@dataclass
class Observed:
    """A run as seen from outside: one sight for each of its processes."""

    sights: list[Sight] = field(default_factory=list)
    log: str = ""

    @property
    def last(self) -> Sight:
        return self.sights[-1]

    @property
    def deaths(self) -> list[Sight]:
        return [sight for sight in self.sights if sight.end.killed]

    def llm_rows(self) -> dict[str, Row]:
        """The entry of each request, by its fingerprint, in a run that nothing happened to."""
        rows = (row for row in self.last.rows if row.kind == LLM)
        # Only then is the nth request the one of the nth entry.
        pairs = zip(self.last.requests, rows, strict=True)
        return {request.fingerprint: row for request, row in pairs}


def undisturbed(setup: Setup) -> Observed:
    """A run that nothing happens to."""
    observed = _run(setup, [], {})
    assert observed.last.end.code == 0, observed.log
    return observed


def kill_and_recover(setup: Setup, expected: Observed, *positions: Position) -> Observed:
    """A run whose first process is killed at the first position, the second at the second, ...

    The process after those is left alone. `expected` is the run without a fault.
    """
    return _run(setup, positions, expected.llm_rows())


def _run(setup: Setup, positions: Sequence[Position], llm_rows: Mapping[str, Row]) -> Observed:
    label = " then ".join(map(str, positions)).replace("/", "-") or "undisturbed"
    effects = EffectLog(setup.directory / f"{label[:100]}.effects")
    log = setup.directory / f"{label[:100]}.log"
    observed = Observed()
    with setup.database() as url, _Killer(setup.script, llm_rows) as model:
        for position in (*positions, None):
            job = setup.recover if observed.sights else setup.start
            order = {**setup.order, "database_url": url, "fault": {}}
            model.doomed = position.row if position and _is_killed_by_model(position) else None
            if position and not model.doomed:
                order["fault"] = {"entry": position.row.name, "moment": position.moment}
            environment = {"MODEL_URL": model.server.base_url, "EFFECTS": str(effects.path)}
            model.victim = Future()
            process = setup.spawn(Job(job, order, log, environment))
            model.victim.set_result(process)
            end = process.wait()
            rows = journal(url, setup.run_id)
            observed.sights.append(Sight(end, rows, model.server.requests, effects.read()))
            if not end.killed:
                break
    observed.log = log.read_text()
    return observed


def _is_killed_by_model(position: Position) -> bool:
    return (position.row.kind, position.moment) == (LLM, "inside")


class _Killer:
    """A model server that kills the process which makes the request of the `doomed` entry."""

    def __init__(self, script: Callable[[Request], Reply], llm_rows: Mapping[str, Row]) -> None:
        self.server = ModelServer(self._reply)
        self.doomed: Row | None = None
        self.victim: Future[Process] = Future()
        self._script = script
        self._llm_rows = llm_rows

    def __enter__(self) -> _Killer:
        self.server.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.__exit__(*error)

    def _reply(self, request: Request) -> Reply:
        if self.doomed and self._llm_rows.get(request.fingerprint) == self.doomed:
            # The client waits for this reply: the request is made and has no outcome.
            self.victim.result(timeout=60).kill()
        return self._script(request)


# Judging ----------------------------------------------------------------------


@dataclass
class Verdict:
    """What became of one run; `wrong` is empty when all is well."""

    killed: int = 0
    completed: int = 0
    completed_repeated: int = 0
    in_flight_repeated: int = 0
    answer_equal: bool = False
    wrong: list[str] = field(default_factory=list)


def judge(observed: Observed, expected: Observed, kills: int = 1) -> Verdict:
    """Compare a run that was killed with the undisturbed one."""
    last, rows = observed.last, expected.last.rows
    verdict = Verdict(killed=len(observed.deaths))
    wrong = verdict.wrong
    if verdict.killed != kills:
        wrong.append(f"{verdict.killed} of {kills} kills happened")
    if last.end.code != 0:
        wrong.append(f"the last process failed: {last.end}")
    verdict.answer_equal = last.end.result == expected.last.end.result
    if not verdict.answer_equal:
        wrong.append(f"the answer is {last.end.result!r}, not {expected.last.end.result!r}")
    if Counter(last.rows) != Counter(rows):
        wrong.append(f"the journal is {_listed(last.rows)}, not {_listed(rows)}")

    made = _calls_made(last, expected)
    for row in rows:
        recorded = [death for death in observed.deaths if row in death.rows]
        until = _calls_made(recorded[0], expected)[row] if recorded else made[row]
        verdict.completed += bool(recorded)
        if made[row] > until:
            verdict.completed_repeated += made[row] - until
            wrong.append(f"{row} was recorded and made {made[row] - until} times again")
        if until == 0:
            wrong.append(f"{row} was never made")
        else:
            verdict.in_flight_repeated += until - 1
        if until > 1 + len(observed.deaths) - len(recorded):
            wrong.append(f"{row} was made {until} times until it was recorded")
    wrong.extend(f"{row} is a call of no entry" for row in made.keys() - set(rows))
    wrong.extend(_wrong_keys(last.effects, expected.last.effects))
    return verdict


def _calls_made(sight: Sight, expected: Observed) -> Counter[Row]:
    """How often the call of each entry had been made, in all processes together."""
    made: Counter[Row] = Counter()
    llm_rows = expected.llm_rows()
    for request in sight.requests:
        made[llm_rows.get(request.fingerprint, Row(f"request {request.number}", LLM))] += 1
    for effect in sight.effects:
        made[Row(effect.fields["entry"], TOOL)] += 1
    return made


def _wrong_keys(effects: list[Effect], expected: list[Effect]) -> Iterator[str]:
    """Every call of an entry has one idempotency key, which no other entry's calls have."""
    keys, usual = _keys(effects), _keys(expected)
    for entry, found in keys.items():
        if found != usual.get(entry):
            yield f"{entry} had the keys {found}, undisturbed {usual.get(entry)}"
    if len(set().union(*keys.values())) != len(keys):
        yield f"different calls had equal keys: {keys}"


def _keys(effects: list[Effect]) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for effect in effects:
        keys.setdefault(effect.fields["entry"], set()).add(effect.fields["key"])
    return keys


def _listed(rows: list[Row]) -> str:
    return ", ".join(map(str, rows))


# Counting ---------------------------------------------------------------------

_HEADER = (
    "",
    "positions",
    "kills",
    "completed calls",
    "made again",
    "in flight made again",
    "answers equal",
    "seconds",
)


@dataclass(frozen=True)
class Counts:
    """The sums of one matrix, as a line of the table."""

    name: str
    verdicts: list[Verdict]
    seconds: float

    def line(self) -> Line:
        numbers = (
            len(self.verdicts),
            sum(verdict.killed for verdict in self.verdicts),
            sum(verdict.completed for verdict in self.verdicts),
            sum(verdict.completed_repeated for verdict in self.verdicts),
            sum(verdict.in_flight_repeated for verdict in self.verdicts),
            sum(verdict.answer_equal for verdict in self.verdicts),
        )
        return (self.name, *map(str, numbers), f"{self.seconds:.0f}")


def table(lines: Sequence[Line]) -> list[str]:
    """The lines of all matrices, with their sums."""
    sums = [str(sum(map(int, column))) for column in list(zip(*lines, strict=True))[1:]]
    cells = [_HEADER, *map(tuple, lines), ("all", *sums)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in cells
    ]
