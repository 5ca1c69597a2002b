"""Which runs a worker takes from a queue: those that it has the code of."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from crewai.flow.flow import Flow, start
from dbos import DBOS, DBOSClient, DBOSConfiguredInstance, WorkflowSerializationFormat

from crewai_dbos import DBOSFlow, Worker
from crewai_dbos._dbos_seam.database import launched_database
from crewai_dbos._fleet import eligibility
from crewai_dbos._runs import registry
from people.conftest import until
from support.databases import some_here
from support.launching import QUICK
from support.names import unique

PORTABLE = WorkflowSerializationFormat.PORTABLE


class Greet(Flow[dict[str, Any]]):
    @start()
    def greet(self) -> str:
        return f"hello {self.state['who']}"


class Setting:
    """A worker in this process, and a client that asks for runs."""

    def __init__(self, url: str) -> None:
        self.client = DBOSClient(system_database_url=url)
        self.had, self.late = unique("had"), unique("late")
        DBOSFlow(flow_name=self.had, orig_flow=Greet)

    def ask(self, name: str, run_id: str, *, labelled: bool = True, **options: Any) -> None:
        label = {"crewai_dbos.run": {"definition": name, "kind": "flow"}} if labelled else {}
        self.client.enqueue(
            {
                "queue_name": "jobs",
                "workflow_name": "crewai_dbos.flow",
                "workflow_id": run_id,
                "attributes": {"mine": 1, **label},
                "serialization_type": PORTABLE,
                **options,
            },  # type: ignore[typeddict-item]
            {"v": 2, "flow": name, "inputs": {"who": run_id}},
        )

    def row(self, run_id: str) -> Any:
        (found,) = self.client.list_workflows(workflow_ids=[run_id])
        return found

    def is_done(self, run_id: str) -> bool:
        return bool(self.row(run_id).status == "SUCCESS")


@contextmanager
def working(url: str, lease: float = 1, polls: float = 0.05, **queue: Any) -> Iterator[Setting]:
    setting = Setting(url)
    DBOS(config={**QUICK, "system_database_url": url, "log_level": "CRITICAL"})
    with Worker(lease=lease, grace=0):
        DBOS.register_queue("jobs", polling_interval_sec=polls, **queue)
        yield setting
        setting.client.destroy()


QUEUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "worker_concurrency": {"worker_concurrency": 1},
    "global_concurrency": {"global_concurrency": 1},
    "limiter": {"limiter": {"limit": 100, "period": 60}},
    "partition_concurrency1": {"partition_concurrency": 1},
    "partition_concurrency2": {"partition_concurrency": 2},
}
HERE = [
    ("sqlite", "plain"),
    ("postgres", "worker_concurrency"),
    ("postgres", "global_concurrency"),
    ("sqlite", "limiter"),
    ("sqlite", "partition_concurrency1"),
    ("postgres", "partition_concurrency2"),
]


@pytest.mark.parametrize(
    ("database_url", "kind"),
    some_here(itertools.product(["sqlite", "postgres"], QUEUES), HERE),
    indirect=["database_url"],
)
def test_what_it_lacks_stays_on_the_queue_and_in_nobodys_way(
    database_url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue = QUEUES[kind]
    partition = {"queue_partition_key": "one"} if "partition_concurrency" in queue else {}
    with working(database_url, **queue) as setting, caplog.at_level(logging.WARNING):
        for number in range(5):
            setting.ask(setting.late, f"late-{number}", workflow_timeout=900, **partition)
        setting.ask(setting.had, "had", **partition)  # behind all of them
        until(lambda: setting.is_done("had"))
        said = f"This worker has no flow {setting.late!r}. No worker that lives has it"
        until(lambda: said in caplog.text)
        for number in range(5):
            row = setting.row(f"late-{number}")
            assert (row.status, row.recovery_attempts, row.executor_id) == ("ENQUEUED", 0, None)
            assert row.workflow_deadline_epoch_ms is None
        DBOSFlow(flow_name=setting.late, orig_flow=Greet)
        for number in range(5):
            run_id = f"late-{number}"
            until(lambda run_id=run_id: setting.is_done(run_id))
            assert setting.row(run_id).output == f"hello {run_id}"
    assert caplog.text.count(f"no flow {setting.late!r}") == 1


@DBOS.dbos_class("claims.Shop")
class Shop(DBOSConfiguredInstance):
    @DBOS.workflow()
    def sell(self, what: str) -> str:
        return f"{self.config_name} sells {what}"


def test_a_configured_instance_that_it_lacks(database_url: str) -> None:
    here, late = unique("here"), unique("late")
    Shop(here)
    with working(database_url) as setting:
        for name in (late, here):
            setting.client.enqueue(
                {
                    "queue_name": "jobs",
                    "workflow_name": Shop.sell.__qualname__,
                    "class_name": "claims.Shop",
                    "instance_name": name,
                    "workflow_id": name,
                },
                "tea",
            )
        until(lambda: setting.is_done(here))
        assert setting.row(late).status == "ENQUEUED"
        Shop(late)
        until(lambda: setting.is_done(late))
        assert setting.row(late).output == f"{late} sells tea"


def test_a_run_that_does_not_say_what_it_is_of_is_put_back_once(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with working(database_url, global_concurrency=1) as setting:
        setting.ask(
            setting.late,
            "late",
            labelled=False,
            workflow_timeout=900,
            priority=3,
            deduplication_id="once",
        )
        said = f"This worker has no flow {setting.late!r}"
        until(lambda: said in caplog.text)
        setting.ask(setting.had, "had", labelled=False, priority=5)
        until(lambda: setting.is_done("had"))  # the place is free, and it is taken no more
        row = setting.row("late")
        assert (row.status, row.recovery_attempts, row.priority) == ("ENQUEUED", 0, 3)
        assert (row.deduplication_id, row.workflow_deadline_epoch_ms) == ("once", None)
        assert (row.queue_name, row.attributes["mine"]) == ("jobs", 1)
        DBOSFlow(flow_name=setting.late, orig_flow=Greet)
        until(lambda: setting.is_done("late"))
        assert setting.row("late").recovery_attempts == 1


def test_a_workflow_of_the_users_that_it_lacks(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with working(database_url) as setting:
        name = unique("another")
        setting.ask(setting.had, "another", workflow_name=name)
        until(lambda: f"This worker has no workflow {name!r}. Its runs wait" in caplog.text)
        assert (setting.row("another").status, setting.row("another").recovery_attempts) == (
            "ENQUEUED",
            0,
        )


def test_names_that_no_database_has_and_very_many(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ["\0", "\ud800", "it's", '"', "}{", *(f"d{number}" for number in range(40_000))]
    names: Callable[[Any], list[str]] = registry.Registry.names
    monkeypatch.setattr(registry.Registry, "names", lambda self: [*names(self), *odd])
    # Each beat looks for all of them, and each poll of the queue.
    with working(database_url, lease=30, polls=0.5) as setting:
        setting.ask(setting.had, "had")
        setting.ask(setting.late, "late")
        until(lambda: setting.is_done("had"))
        assert setting.row("late").status == "ENQUEUED"


def test_a_program_without_a_worker_takes_all(database_url: str) -> None:
    """After a worker has ended in the same process, too."""
    with working(database_url):
        pass
    setting = Setting(database_url)
    DBOS(config={**QUICK, "system_database_url": database_url, "log_level": "CRITICAL"})
    DBOS.launch()
    DBOS.register_queue("jobs", polling_interval_sec=0.05)
    for run_id in ("late", "another's"):
        setting.ask(setting.late, run_id)
        until(
            lambda run_id=run_id: "waiting" in setting.row(run_id).attributes.get("crewai_dbos", {})
        )
        assert setting.row(run_id).status == "PENDING"
    runs = launched_database().runs
    with launched_database().writing() as connection:
        taken = sa.update(runs).where(runs.c.workflow_uuid == "another's")
        connection.execute(taken.values(owner_xid="of another process"))
    DBOSFlow(flow_name=setting.late, orig_flow=Greet)
    until(lambda: setting.is_done("late"))
    assert setting.row("another's").status == "PENDING"
    setting.client.destroy()
    DBOS.destroy()


def test_left_is_told_by_what_it_is_of() -> None:
    assert eligibility._left("crewai_dbos.crew_async", "x", 2) == eligibility.Left("crew", "x", 2)
    assert eligibility._left("mine", None, 1) == eligibility.Left("workflow", "mine", 1)
