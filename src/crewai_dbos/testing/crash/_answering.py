"""A script in the place of the people whom a run asks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from crewai_dbos._dbos_seam.database import DELAYED
from crewai_dbos.control import Answer, Control, Request
from crewai_dbos.errors import AnswerError, CrewaiDbosError

Answers = Callable[[Request], Answer | None]
"""What is said to a request; None leaves it open."""

_LOOK = 0.1
"""Seconds between two looks for requests."""

PATIENCE = 10.0
"""Seconds after which a run is answered that is still in memory: it may not park at all."""


@contextmanager
def answering(url: str, answers: Answers) -> Iterator[list[str]]:
    """In the block the requests in a database are answered, once their run is a row alone.

    Args:
        url: The database, which may be made in the block.
        answers: What is said.

    Yields:
        What went wrong, as it does.
    """
    ended = threading.Event()
    trouble: list[str] = []

    def work() -> None:
        seen: dict[str, float] = {}
        while not ended.wait(_LOOK):
            # There may be no database yet, or one that is just being made.
            with contextlib.suppress(SQLAlchemyError, CrewaiDbosError), Control(url) as control:
                while not ended.wait(_LOOK):
                    _look(control, answers, seen, trouble)

    thread = threading.Thread(target=work, name="crash-test-people", daemon=True)
    thread.start()
    try:
        yield trouble
    finally:
        ended.set()
        thread.join()


def _look(control: Control, answers: Answers, seen: dict[str, float], trouble: list[str]) -> None:
    for request in control.requests():
        first = seen.setdefault(request.request_id, time.monotonic())
        is_row = control.status_of(request.run_id) == DELAYED
        if not is_row and time.monotonic() - first < PATIENCE:
            continue
        try:
            answer = answers(request)
            if answer is not None:
                control.answer(request.request_id, answer, by="crash test")
        except AnswerError as error:
            trouble.append(str(error))
        except Exception as error:
            told = f"{type(error).__name__} in the script of people: {error}"
            if told not in trouble:
                trouble.append(told)
            return
