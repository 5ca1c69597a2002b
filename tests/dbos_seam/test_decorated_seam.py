"""What functions are decorated with is seen, and what DBOS has registered (read at 3.4.0)."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from dbos import (
    DBOS,
    AsyncSQLAlchemyDatasource,
    DBOSConfiguredInstance,
    SQLAlchemyDatasource,
)

from crewai_dbos._dbos_seam.decorated import decorated_kind, registered_functions, step_options_of
from support.launching import QUICK


@pytest.fixture(scope="module")
def datasources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("datasources")
    # DBOS wants them before its launch, and remembers the launch of another test.
    DBOS(config={"system_database_url": f"sqlite:///{folder}/dbos.sqlite", **QUICK})
    try:
        return (
            SQLAlchemyDatasource.create(f"sqlite:///{folder}/sync.sqlite"),
            asyncio.run(
                AsyncSQLAlchemyDatasource.create(f"sqlite+aiosqlite:///{folder}/async.sqlite")
            ),
        )
    finally:
        DBOS.destroy()


def plain(x: int) -> int:
    return x


async def aplain(x: int) -> int:
    return x


@DBOS.step()
def step(x: int) -> int:
    return x


@DBOS.step(retries_allowed=True, max_attempts=4)
async def astep(x: int) -> int:
    return x


@DBOS.workflow()
def workflow(x: int) -> int:
    return x


@DBOS.workflow()
async def aworkflow(x: int) -> int:
    return x


def logged(function: Any) -> Any:
    """A well-behaved decorator of the user's."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        logging.getLogger("tests").debug("called")
        return function(*args, **kwargs)

    return call


class Things:
    def plain(self, x: int) -> int:
        return x

    @DBOS.step()
    def step(self, x: int) -> int:
        return x

    @DBOS.step(preemptible=True)
    async def astep(self, x: int) -> int:
        return x

    @staticmethod
    @DBOS.step()
    def static_step(x: int) -> int:
        return x

    @logged
    @DBOS.step()
    def logged_step(self, x: int) -> int:
        return x

    @DBOS.step()
    @logged
    def step_of_logged(self, x: int) -> int:
        return x


@DBOS.dbos_class()
class Configured(DBOSConfiguredInstance):
    @DBOS.workflow()
    def workflow(self, x: int) -> int:
        return x

    @DBOS.step()
    def step(self, x: int) -> int:
        return x


things = Things()


configured = Configured("seam")


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (plain, None),
        (aplain, None),
        (logged(plain), None),
        (things.plain, None),
        (print, None),
        (Things, None),
        (functools.partial(plain, 1), None),
        (step, "step"),
        (astep, "step"),
        (logged(step), "step"),
        (logged(logged(astep)), "step"),
        (things.step, "step"),
        (Things.step, "step"),
        (things.astep, "step"),
        (things.static_step, "step"),
        (things.logged_step, "step"),
        (things.step_of_logged, "step"),
        (configured.step, "step"),
        (workflow, "workflow"),
        (aworkflow, "workflow"),
        (logged(workflow), "workflow"),
        (configured.workflow, "workflow"),
        (logged(configured.workflow), "workflow"),
    ],
)
def test_a_functions_decoration_is_found_under_others(function: Any, kind: str | None) -> None:
    assert decorated_kind(function) == kind


def test_a_transaction_is_found_under_others(datasources: Any) -> None:
    datasource, async_datasource = datasources

    @datasource.transaction
    def bare(x: int) -> int:
        return x

    @datasource.transaction(name="named")
    def named(x: int) -> int:
        return x

    @async_datasource.transaction()
    async def asynchronous(x: int) -> int:
        return x

    class Bank:
        @datasource.transaction()
        def transfer(self, x: int) -> int:
            return x

    for function in (bare, named, asynchronous, logged(bare), Bank().transfer, Bank.transfer):
        assert decorated_kind(function) == "transaction", function


def test_a_function_that_only_uses_a_datasource_is_plain(datasources: Any) -> None:
    class Report:
        def __init__(self) -> None:
            self.datasource = datasources[0]

        def tool(self) -> Callable[[], str]:
            def report() -> str:
                return str(self.datasource)

            return report

    assert decorated_kind(Report().tool()) is None


def worth_it(error: BaseException) -> bool:
    return True


def test_the_options_of_a_step_are_found_under_others() -> None:
    given = {
        "retries_allowed": True,
        "interval_seconds": 0.25,
        "max_attempts": 7,
        "backoff_rate": 1.5,
        "should_retry": worth_it,
    }

    @DBOS.step(name="seam options", **given)
    def with_options() -> None: ...

    @DBOS.step(name="seam async options", preemptible=True, timeout_seconds=3.5)
    async def with_limits() -> None: ...

    defaults = {"preemptible": False, "timeout_seconds": None}
    assert step_options_of(with_options) == {**given, **defaults}
    assert step_options_of(logged(with_options)) == {**given, **defaults}
    limits = step_options_of(with_limits)
    assert (limits["preemptible"], limits["timeout_seconds"]) == (True, 3.5)
    assert limits["retries_allowed"] is False
    assert step_options_of(things.astep)["preemptible"] is True
    assert step_options_of(things.step_of_logged)["retries_allowed"] is False
    assert step_options_of(configured.step)["max_attempts"] == 3


@pytest.mark.parametrize("function", [plain, logged(plain), print])
def test_what_is_no_step_has_no_options(function: Any) -> None:
    with pytest.raises(TypeError, match=r"not decorated with DBOS\.step"):
        step_options_of(function)


def test_workflows_and_steps_are_registered_under_their_names() -> None:
    workflows, registered = registered_functions()
    assert {"workflow", "aworkflow"} <= set(workflows)
    assert {"step", "astep", "Things.step"} <= set(registered)
    assert not {"workflow", "aworkflow"} & set(registered)
    assert not {"step", "astep", "Things.step"} & set(workflows)
