"""Threads that lost the run, outlived it, or belong to another one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from crewai_dbos import LostContextError
from crewai_dbos._journal.joining import joined
from crewai_dbos._journal.run_scope import for_call
from crewai_dbos._signals import ControlSignal
from journal.helpers import call, only_sqlite, thread, thread_without_context, work
from support.runs import begin, entries, finish, follow, plans, replay, result, run_id


@only_sqlite
def test_a_thread_without_the_runs_context_is_an_error_at_once(dbos: None) -> None:
    def plan() -> Any:
        with joined("work") as scope:

            def ask() -> None:
                here = for_call(scope, "LLM request of gpt")
                call(here or scope, "unrecorded")

            thread_without_context(ask)
            return "went on"

    run = run_id()
    with pytest.raises(LostContextError, match=rf"{run}: the LLM request of gpt was made on a"):
        finish(plan, run)
    assert work.done.total() == 0


@only_sqlite
def test_a_thread_that_outlives_the_run_makes_no_call(dbos: None) -> None:
    over = threading.Event()
    outcome: list[BaseException] = []
    threads: list[threading.Thread] = []

    def plan() -> Any:
        with joined("work") as scope:

            def late() -> None:
                assert over.wait(30)
                try:
                    call(scope, "late")
                except BaseException as error:
                    outcome.append(error)

            threads.append(thread(late))
            threads[0].start()
            return call(scope, "a")

    run = run_id()
    assert finish(plan, run) == "a 1"
    over.set()
    threads[0].join(30)
    assert work.done == {"a": 1}
    assert entries(run) == ["work#1/a#1"]
    [error] = outcome
    assert isinstance(error, ControlSignal), "an `except Exception` of crewAI would swallow it"
    assert isinstance(error.error, LostContextError)
    assert f"Run {run} is over" in str(error)


def test_two_runs_at_the_same_time_do_not_see_each_other(dbos: None, tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def plan() -> Any:
        with joined("work") as scope:
            both.wait(30)
            return [call(scope, "a", lambda: DBOS.workflow_id), call(scope, "b")]

    runs = [run_id(), run_id()]
    handles = [begin(plan, run) for run in runs]
    results = [result(handle) for handle in handles]
    assert [got[0] for got in results] == runs
    both = threading.Barrier(1)
    for run, got in zip(runs, results, strict=True):
        assert replay(run) == got
    assert work.done == {"a": 2, "b": 2}


@only_sqlite
def test_a_workflow_inside_a_recorded_call_is_refused_by_dbos_and_recorded_so(dbos: None) -> None:
    plans["inner"] = lambda: "inner"

    def plan() -> Any:
        with joined("work") as scope:
            with pytest.raises(AssertionError):
                call(scope, "a", lambda: follow("inner"))
            return call(scope, "b")

    run = run_id()
    assert finish(plan, run) == "b 1"
    assert replay(run) == "b 1"
