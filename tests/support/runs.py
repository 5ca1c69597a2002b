"""DBOS workflows that follow a plan, to test the journal without crewAI."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, SetWorkflowID, StepInfo, WorkflowHandle

from crewai_dbos._dbos_seam.context import current_context
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.executions import close
from crewai_dbos._journal.run_scope import enclosing
from crewai_dbos._journal.scope import Scope
from crewai_dbos._signals import ControlSignal
from support.names import unique

Plan = Callable[[], Any]

plans: dict[str, Any] = {}
"""What a run does, by its name. Plans change from test to test, the workflows' source does not."""


@contextlib.contextmanager
def whole_run() -> Iterator[None]:
    """The block is all that a workflow does; what ended it is raised as it is."""
    context = current_context()
    assert context is not None
    try:
        yield
    except ControlSignal as signal:
        raise signal.error from None
    finally:
        close(context)


@DBOS.workflow(name="follow")
def follow(plan: str) -> Any:
    with whole_run():
        return plans[plan]()


@DBOS.workflow(name="afollow")
async def afollow(plan: str) -> Any:
    with whole_run():
        return await plans[plan]()


@DBOS.workflow(name="follow_plainly")
def follow_plainly(plan: str) -> Any:
    """As users write their workflows, who know nothing of signals."""
    return plans[plan]()


@contextlib.contextmanager
def before_launch() -> Iterator[None]:
    """Where datasources are made: DBOS takes one for launched after it has been destroyed, too."""
    DBOS(config={"name": "journal", "system_database_url": "sqlite:///never-launched.sqlite"})
    try:
        yield
    finally:
        DBOS.destroy()


def run_id() -> str:
    return unique("run")


def begin(plan: Plan, run: str, workflow: Any = follow) -> WorkflowHandle[Any]:
    """Run `plan` in a workflow of its own called `run`."""
    plans[run] = plan
    with SetWorkflowID(run):
        return DBOS.start_workflow(workflow, run)


def finish(plan: Plan, run: str, workflow: Any = follow) -> Any:
    return result(begin(plan, run, workflow))


def fork(run: str, step: int, plan: Plan | None = None) -> Any:
    """What the run returns when all before `step` is replayed, with `plan` as its code now."""
    if plan is not None:
        plans[run] = plan
    return result(DBOS.fork_workflow(run, step))


def replay(run: str, plan: Plan | None = None) -> Any:
    """What the run returns when all of it is replayed."""
    return fork(run, max((step["function_id"] for step in steps(run)), default=0) + 1, plan)


def result(handle: WorkflowHandle[Any]) -> Any:
    return handle.get_result(polling_interval_sec=0.02)


def steps(run: str) -> list[StepInfo]:
    return DBOS.list_workflow_steps(run)


def entries(run: str) -> list[str]:
    """The names of what the journal recorded, pins aside."""
    names = [step["function_name"] for step in steps(run)]
    return [name for name in names if "#" in name and "/dbos#" not in name]


def every_step(run: str) -> list[int]:
    """Where to fork a run to replay less and less of it, then all."""
    ids = [step["function_id"] for step in steps(run)]
    return [1, *(step_id + 1 for step_id in ids)]


class Rows:
    """The rows that DBOS keeps of steps, as a person with an SQL prompt sees them."""

    def __init__(self, database_url: str) -> None:
        self._sqlite = database_url.startswith("sqlite")
        self._engine = sa.create_engine(
            database_url if self._sqlite else database_url.replace("://", "+psycopg://", 1)
        )

    def one(self, run: str, name: str) -> tuple[str | None, str | None, str | None]:
        """Output, error and format of the step called `name`."""
        return tuple(self._execute("SELECT output, error, serialization FROM", run, name).one())  # type: ignore[return-value]

    def damage(self, run: str, name: str, output: str | None) -> None:
        self._execute("UPDATE", run, name, output)

    def repeat(self, run: str, name: str, names: Sequence[str]) -> None:
        """Have the step called `name` recorded under each of `names`, in their order."""
        table = "operation_outputs" if self._sqlite else "dbos.operation_outputs"
        where = "WHERE workflow_uuid = :run AND function_name = :name"
        with self._engine.begin() as connection:
            given = {"run": run, "name": name}
            found = connection.execute(sa.text(f"SELECT * FROM {table} {where}"), given)
            row = dict(found.mappings().one())
            connection.execute(sa.text(f"DELETE FROM {table} {where}"), given)
            columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
            connection.execute(
                sa.text(f"INSERT INTO {table} ({columns}) VALUES ({values})"),
                [
                    {**row, "function_id": row["function_id"] + n, "function_name": each}
                    for n, each in enumerate(names)
                ],
            )

    def forget(self, run: str, name: str) -> None:
        """Take the step called `name` away."""
        self._execute("DELETE FROM", run, name)

    def _execute(self, verb: str, run: str, name: str, output: str | None = None) -> Any:
        table = "operation_outputs" if self._sqlite else "dbos.operation_outputs"
        change = "SET output = :output" if verb == "UPDATE" else ""
        where = "WHERE workflow_uuid = :run AND function_name = :name"
        with self._engine.begin() as connection:
            done = connection.execute(
                sa.text(f"{verb} {table} {change} {where}"),
                {"run": run, "name": name, **({"output": output} if change else {})},
            )
            if verb == "UPDATE":
                assert done.rowcount == 1
                return None
            if verb.startswith("DELETE"):
                return None
            return done.freeze()()

    def close(self) -> None:
        self._engine.dispose()


class Work:
    """What was done since `done` was cleared. Each time gives a text of its own."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def forget(self) -> None:
        self.done.clear()
        self._times.clear()

    def do(self, what: str) -> str:
        with self._lock:
            self.done[what] += 1
            self._times[what] += 1
            return f"{what} {self._times[what]}"

    def call(
        self, scope: Scope, what: str, body: Callable[[], Any] | None = None, **options: Any
    ) -> Any:
        """Do `what` as a recorded call of `scope`."""

        def work() -> Any:
            text = self.do(what)
            return text if body is None else body()

        return scope.run(Call(what, kind="work", **options), work)

    async def acall(
        self,
        scope: Scope,
        what: str,
        body: Callable[[], Awaitable[Any]] | None = None,
        **options: Any,
    ) -> Any:
        async def work() -> Any:
            text = self.do(what)
            return text if body is None else await body()

        return await scope.arun(Call(what, kind="work", **options), work)

    def durably(self, what: str) -> Any:
        """Do `what` as an LLM or a tool does it: recorded in the run that is open, if one is."""
        scope = enclosing()
        return self.do(what) if scope is None else self.call(scope, what)
