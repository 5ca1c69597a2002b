"""One DBOS for all tests of what runs ask people, on each kind of database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dbos import DBOS

from crewai_dbos.control import Answer, Control, Request
from crewai_dbos.testing import text
from support.controlling import one_dbos
from support.serving import Serve, serving


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with one_dbos(request, tmp_path_factory) as url:
        yield url


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Serve]:
    yield from serving(monkeypatch, lambda _: text("done"))


class Desk:
    """Somebody who sees what is asked of one run, and answers."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def next(self, run_id: str, **wanted: Any) -> Request:
        """The request that the run waits for, when it has come."""

        def found() -> Request | None:
            for request in self.control.requests(run_id=run_id):
                if all(getattr(request, name) == value for name, value in wanted.items()):
                    return request
            return None

        return until(found)

    def answer(self, run_id: str, answer: Answer, by: str = "ann", **wanted: Any) -> Request:
        request = self.next(run_id, **wanted)
        self.control.answer(request.request_id, answer, by=by)
        return request

    def parked(self, run_id: str) -> None:
        """Returns when the run is a row and nothing else."""
        until(lambda: status(run_id) == "DELAYED")


@pytest.fixture
def desk(control: Control) -> Desk:
    return Desk(control)


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What `found` returns, as soon as it is something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return value


def status(run_id: str) -> str:
    found = DBOS.get_workflow_status(run_id)
    return "" if found is None else found.status


class Called:
    """A call of the test's, made on a thread."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._result: list[Any] = []
        self._error: list[BaseException] = []

        def work() -> None:
            try:
                self._result.append(function())
            except BaseException as error:
                self._error.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(60)
        if self._error:
            raise self._error[0]
        assert self._result, "it has not returned"
        return self._result[0]
