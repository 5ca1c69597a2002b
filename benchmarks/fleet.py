"""Workers on one Postgres: what 50 runs at once take of one, what the database does for a recorded
call, and how many more runs and calls several of them carry out, beside bare steps of DBOS."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import model
from benchmarks.databases import databases
from benchmarks.harness import Row, Worker, compared, interleaved, saying, serve

NAME = "fleet"
DATABASE = "BENCH_DATABASE_URL"
LISTENS = "BENCH_QUEUES"
"""The queues that a worker takes runs of, with commas between them."""

LEASE = "BENCH_LEASE"
"""In seconds; 30 if it is not set."""

WORKERS = (1, 2, 4, 8)
AT_ONCE = 8
"""Runs that a worker carries out at the same time, where their number a second is measured."""
MANY, MANY_AT_ONCE, SLOW = 500, 50, 0.5
"""Runs in a queue, how many of them a worker carries out at once, seconds of their model."""
STEPS, RECORDED, CREW = "DBOS.run_step", "recorded calls alone", "a crew's recorded calls"
WORK = {STEPS: "steps", RECORDED: "recorded", CREW: "crew"}
"""What a run does, by what its calls are: those of a crew of two tasks, or without crewAI."""
CALLS = 50
"""Of a run without crewAI, each of 1 KB."""
IDLE = 5.0
"""Seconds for which an idle worker is watched."""


def measure(quick: bool, folder: Path) -> list[Row]:
    numbers, runs, rounds = (WORKERS[:2], 8, 1) if quick else (WORKERS, 64, 2)
    many, many_at_once = (20, 5) if quick else (MANY, MANY_AT_ONCE)
    with databases(folder) as made, ExitStack() as stack:
        instant = stack.enter_context(model.running(folder))
        url = made.fresh("Postgres")
        starter = process(stack, folder, instant, url, "starter", "nothing")
        for number in numbers:
            starter.ask("register", queue=f"by-{number}", at_once=AT_ONCE)
        queues = [[f"by-{n}" for n in numbers if n > place] for place in range(max(numbers))]
        workers = [process(stack, folder, instant, url, "worker-0", ",".join(queues[0]))]
        starter.ask("run", queue="by-1", runs=AT_ONCE)
        starter.ask("run", queue="by-1", runs=1, work=WORK[STEPS])
        starter.ask("run", queue="by-1", runs=1, work=WORK[RECORDED])
        rows = _per_call(starter, workers[0], runs)
        workers += [
            process(stack, folder, instant, url, f"worker-{place}", ",".join(names))
            for place, names in enumerate(queues[1:], start=1)
        ]
        for number in numbers:
            starter.ask("run", queue=f"by-{number}", runs=AT_ONCE * number)
        sides = {
            f"{number} worker{'s' * (number > 1)}": partial(_throughput, starter, number, runs)
            for number in numbers
        }
        samples = interleaved(sides, rounds)
        rows += compared(NAME, f"{runs} runs, an instant model", "runs/s", samples)
        for number in numbers:
            rows += _calls_per_second(starter, number, runs // 2, rounds)
        for worker in workers:
            worker.kill()
        second = folder / "many"
        second.mkdir()
        slow = stack.enter_context(model.running(second, SLOW))
        rows += _many(stack, second, slow, made.fresh("Postgres"), many, many_at_once)
    return rows


def _throughput(starter: Worker, workers: int, runs: int) -> float:
    return runs / float(starter.ask("run", queue=f"by-{workers}", runs=runs))


def _calls_per_second(starter: Worker, workers: int, runs: int, rounds: int) -> list[Row]:
    def side(what: str) -> float:
        queue = f"by-{workers}"
        return runs * CALLS / float(starter.ask("run", queue=queue, runs=runs, work=WORK[what]))

    samples = interleaved({each: partial(side, each) for each in (STEPS, RECORDED)}, rounds)
    case = f"{workers} worker{'s' * (workers > 1)}, runs of {CALLS} calls without crewAI"
    return compared(NAME, case, "calls/s", samples)


def _per_call(starter: Worker, worker: Worker, runs: int) -> list[Row]:
    """What is done in the database for a call, without what an idle worker does anyway."""
    before = _counts(starter, worker)
    time.sleep(IDLE)
    idle = _difference(before, _counts(starter, worker), IDLE)
    busy = {side: _busy(starter, worker, runs, what, idle) for side, what in WORK.items()}
    rows = []
    for what, unit in (
        ("statements", "statements"),
        ("transactions", "transactions"),
        ("bytes", "WAL bytes"),
    ):
        figures = {side: [counts[what] / counts["calls"]] for side, counts in busy.items()}
        notes = {
            STEPS: f"an idle worker: {idle[what]:,.1f} a second",
            CREW: f"{busy[CREW][what] / runs:,.1f} a run, of {busy[CREW]['calls'] / runs:g} calls",
        }
        rows += compared(NAME, f"in the database, a call: {unit}", unit, figures, notes=notes)
    return rows


def _busy(
    starter: Worker, worker: Worker, runs: int, what: str, idle: Mapping[str, float]
) -> dict[str, float]:
    """What so many runs have the database do."""
    before = _counts(starter, worker)
    seconds = float(starter.ask("run", queue="by-1", runs=runs, work=what))
    counts = _difference(before, _counts(starter, worker), 1.0)
    # What it is asked in the pauses before it is looked at is not of the runs either.
    return {
        name: count - (0 if name == "calls" else idle[name] * seconds)
        for name, count in counts.items()
    }


def _counts(starter: Worker, worker: Worker) -> dict[str, float]:
    return {**starter.ask("database"), "statements": float(worker.ask("statements"))}


def _difference(
    before: Mapping[str, float], after: Mapping[str, float], by: float
) -> dict[str, float]:
    return {what: (after[what] - before[what]) / by for what in before}


def _many(
    stack: ExitStack, folder: Path, env: dict[str, str], url: str, many: int, at_once: int
) -> list[Row]:
    starter = process(stack, folder, env, url, "starter", "nothing")
    starter.ask("register", queue="many", at_once=at_once)
    worker = process(stack, folder, env, url, "worker", "many")
    starter.ask("run", queue="many", runs=1)
    seen = psutil.Process(worker.pid)
    before = _held(seen)
    most = before
    with ThreadPoolExecutor(1) as pool:
        over = pool.submit(starter.ask, "run", queue="many", runs=many)
        while not over.done():
            time.sleep(0.2)
            now = _held(seen)
            most = {what: max(most[what], now[what]) for what in now}
    seconds = float(over.result())
    time.sleep(2)
    after = _held(seen)
    rows = []
    for what in before:
        figures = {"before": [before[what]], "at most": [most[what]], "after": [after[what]]}
        note = {"after": f"{many} runs in {seconds:,.0f} s"}
        case = f"{many} queued runs, {at_once} at once: {what}"
        rows += compared(NAME, case, "MB" if what == "memory" else what, figures, notes=note)
    return rows


def _held(process: psutil.Process) -> dict[str, float]:
    """What a process has now."""
    return {
        "memory": process.memory_info().rss / 1e6,
        "threads": process.num_threads(),
        "files": process.num_fds(),
        "connections": len(process.net_connections("tcp")),
    }


def process(
    stack: ExitStack, folder: Path, env: dict[str, str], url: str, name: str, queues: str
) -> Worker:
    """A worker that takes runs of these queues."""
    home = folder / name
    home.mkdir(parents=True)
    env = {**env, DATABASE: url, LISTENS: queues}
    worker = stack.enter_context(Worker("benchmarks.fleet", home=home, env=env))
    worker.read()
    return worker


# The worker ------------------------------------------------------------------------------


def _serve() -> None:
    say = saying()
    import psycopg
    import sqlalchemy as sa
    from dbos import DBOS

    from benchmarks.people import clerk, crew
    from crewai_dbos import DBOSCrew, Worker
    from crewai_dbos._dbos_seam.database import launched_database
    from crewai_dbos._journal.call import Call
    from crewai_dbos._journal.run_scope import enclosing

    config: Any = {
        "name": "bench",
        "system_database_url": os.environ[DATABASE],
        "application_version": "1",
        "log_level": "CRITICAL",
    }
    durable = DBOSCrew(crew_name="clerks", orig_crew=lambda: crew(clerk(), [model.order(1)] * 2))
    answer, request = "y" * 1_000, {"messages": [{"role": "user", "content": "x" * 1_000}]}

    @DBOS.workflow(name="bench_steps")
    def steps() -> None:
        for _ in range(CALLS):
            DBOS.run_step({"name": "llm"}, lambda: answer)

    @DBOS.workflow(name="bench_recorded")
    def recorded() -> None:
        scope = enclosing()
        assert scope is not None
        for _ in range(CALLS):
            scope.run(Call("llm", kind="llm", request=request), lambda: answer)

    DBOS(config=config)
    DBOS.listen_queues(os.environ[LISTENS].split(","))
    made = [0]

    class Counting(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            made[0] += query != ";"  # by which a pool asks whether a connection is still there
            return super().execute(query, *args, **kwargs)

    @sa.event.listens_for(sa.Engine, "connect")
    def opened(connection: Any, _: Any) -> None:
        connection.cursor_factory = Counting

    def ended() -> int:
        runs = launched_database().runs
        with launched_database().engine.connect() as connection:
            query = sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status)
            counts = dict(connection.execute(query).tuples().all())
        if "ERROR" in counts:
            raise RuntimeError("a run has failed")
        return counts.get("SUCCESS", 0)

    starts = {
        "steps": lambda queue: DBOS.enqueue_workflow(queue, steps),
        "recorded": lambda queue: DBOS.enqueue_workflow(queue, recorded),
        "crew": lambda queue: durable.start(queue=queue),
    }

    def run(queue: str, runs: int, work: str = "crew") -> float:
        """The seconds in which a queue is worked off."""
        before, began = ended(), time.perf_counter()
        for _ in range(runs):
            starts[work](queue)
        while ended() < before + runs:
            time.sleep(0.05)
        return time.perf_counter() - began

    def register(queue: str, at_once: int, polling: float = 0.5) -> str:
        DBOS.register_queue(queue, worker_concurrency=at_once, polling_interval_sec=polling)
        return queue

    def owners(runs: list[str]) -> set[str]:
        """Which workers have these runs; none of one that waits."""
        found = DBOS.list_workflows(workflow_ids=runs, load_input=False, load_output=False)
        return {str(run.executor_id) if run.status == "PENDING" else "" for run in found}

    def begin(queue: str, runs: int) -> list[str]:
        """Start runs; returns their ids when all are at work."""
        ids = [durable.start(queue=queue).workflow_id for _ in range(runs)]
        while "" in owners(ids):
            time.sleep(0.05)
        return ids

    def taken(executor_id: str, runs: list[str]) -> float:
        """The seconds until others are at work at all the runs of one that was killed just now."""
        began = time.perf_counter()
        while owners(runs) & {executor_id, ""}:
            time.sleep(0.02)
        return time.perf_counter() - began

    def database() -> dict[str, float]:
        """What the database has done so far."""
        query = sa.text(
            "SELECT pg_stat_clear_snapshot(), xact_commit + xact_rollback,"
            " pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'),"
            " (SELECT count(*) FROM dbos.operation_outputs)"
            " FROM pg_stat_database WHERE datname = current_database()"
        )
        time.sleep(1.5)  # in which the server's processes report what they have done
        with launched_database().engine.connect() as connection:
            _, transactions, size, calls = connection.execute(query).one()
        return {"transactions": float(transactions), "bytes": float(size), "calls": float(calls)}

    with Worker(grace=0, lease=float(os.environ.get(LEASE, "30"))) as worker:
        say({})
        answers = {
            "run": run,
            "register": register,
            "database": database,
            "begin": begin,
            "taken": taken,
            "statements": lambda: made[0],
            "executor_id": lambda: worker.executor_id,
        }
        serve(say, answers)


if __name__ == "__main__":
    _serve()
