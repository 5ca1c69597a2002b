"""Workers on one database, in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from dbos import DBOSClient, WorkflowSerializationFormat

from crewai_dbos.testing import EffectLog
from crewai_dbos.testing.crash._fork_server import fork_server
from crewai_dbos.testing.crash._jobs import Job
from crewai_dbos.testing.crash._processes import Process
from crewai_dbos.testing.effects import EFFECTS
from fleet import definitions, jobs
from people.conftest import until

RUNS = ["otters", "seals"]


class Fleet:
    """Workers on one database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.effects = EffectLog(folder / "effects")
        self._hold = folder / "hold"
        self._folder = folder
        self._processes: list[Process] = []
        self._looking: psycopg.Connection | None = None

    def hold(self) -> None:
        """From now on the second step of a run does not end."""
        self._hold.touch()

    def go_on(self) -> None:
        self._hold.unlink()

    def process(self, *, job: str = "work", **order: Any) -> Process:
        log = self._folder / f"{len(self._processes)}.log"
        environment = {EFFECTS: str(self.effects.path), definitions.HOLD: str(self._hold)}
        job = Job(f"{jobs.__name__}:{job}", {"database_url": self.url, **order}, log, environment)
        process = fork_server(jobs.__name__).start(job)
        self._processes.append(process)
        return process

    def worker(self, **order: Any) -> Process:
        process = self.process(**order)
        process.hear("worker")
        return process

    def steps(self, kind: str, run_id: str) -> list[int]:
        return [
            effect.fields["step"]
            for effect in self.effects.read()
            if effect.kind == kind and effect.fields["run"] == run_id
        ]

    def begun(self, process: Process, number: int) -> list[str]:
        """The runs whose step of this number has begun in this process."""
        return [
            effect.fields["run"]
            for effect in self.effects.read()
            if (effect.kind, effect.fields["pid"]) == ("begun", process.pid)
            and effect.fields["step"] == number
        ]

    def at_second_step(self, process: Process, runs: list[str] = RUNS) -> None:
        until(lambda: sorted(self.begun(process, 2)) == sorted(runs))

    def results(self, runs: list[str] = RUNS) -> list[str]:
        client = DBOSClient(system_database_url=self.url)
        try:
            until(lambda: all(_status(client, run_id) == "SUCCESS" for run_id in runs))
            return [str(client.retrieve_workflow(run_id).get_result()) for run_id in runs]
        finally:
            client.destroy()

    def ask(self, flow: str, run_id: str) -> None:
        """Put a run on the queue as another program may, which does not say what it is of."""
        client = DBOSClient(system_database_url=self.url)
        try:
            client.enqueue(
                {
                    "queue_name": jobs.QUEUE,
                    "workflow_name": "crewai_dbos.flow",
                    "workflow_id": run_id,
                    "app_version": "v1",
                    "serialization_type": WorkflowSerializationFormat.PORTABLE,
                },
                {"v": 2, "flow": flow, "inputs": {"run": run_id}},
            )
        finally:
            client.destroy()

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        engine = sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            yield connection
            connection.rollback()
        engine.dispose()

    @property
    def leases(self) -> str:
        """The table."""
        return f"{'' if self.url.startswith('sqlite') else 'dbos.'}crewai_dbos_workers"

    @contextmanager
    def no_writes(self) -> Iterator[None]:
        """In the block nobody else writes, and everybody reads."""
        on_sqlite = self.url.startswith("sqlite")
        lock = "BEGIN IMMEDIATE" if on_sqlite else f"LOCK TABLE {self.leases} IN EXCLUSIVE MODE"
        with self.connected() as connection:
            connection.execute(sa.text(lock))
            yield

    def pause(self, process: Process) -> None:
        """Have it stand still; not in the middle of a write, as SQLite would let nobody write."""
        while True:
            os.kill(process.pid, signal.SIGSTOP)
            try:
                with self.connected() as connection:
                    if self.url.startswith("sqlite"):
                        connection.execute(sa.text("PRAGMA busy_timeout = 200"))
                        connection.execute(sa.text("BEGIN IMMEDIATE"))
                return
            except sa.exc.OperationalError:
                os.kill(process.pid, signal.SIGCONT)

    def beats(self) -> list[int]:
        """When the workers have beaten last."""
        with self.connected() as connection:
            return list(connection.execute(sa.text(f"SELECT beat_ms FROM {self.leases}")).scalars())

    def rows(self, query: str) -> list[Any]:
        """What Postgres answers; over one connection, as a new one costs more than a query."""
        if self._looking is None:
            self._looking = psycopg.connect(self.url, autocommit=True)
        return self._looking.execute(query).fetchall()

    def status(self, run_id: str) -> str:
        client = DBOSClient(system_database_url=self.url)
        try:
            return _status(client, run_id)
        finally:
            client.destroy()

    def end(self) -> None:
        if self._looking is not None:
            self._looking.close()
        for process in self._processes:
            process.end()


def _status(client: DBOSClient, run_id: str) -> str:
    return str(client.retrieve_workflow(run_id).get_status().status)


@pytest.fixture
def fleet(database_url: str, tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(database_url, tmp_path)
    yield found
    found.end()
