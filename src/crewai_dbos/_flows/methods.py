"""The methods of one run of a flow: each is recorded when it ends.

A method that has ended is not run again: what it returned is the result of its entry, and what it
did to the state is stored with it. A method that was cut short runs again from its beginning, with
the calls that it made answered from the record.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from crewai_dbos import _command_lines
from crewai_dbos._carrying import method_at_work
from crewai_dbos._flows import feedback
from crewai_dbos._flows.progress import FlowRun, depth
from crewai_dbos._flows.state.changes import Changes
from crewai_dbos._flows.state.fields import ATTRIBUTE
from crewai_dbos._flows.state.tracking import Execution, at_work, current
from crewai_dbos._journal import background, run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.entry import Entry
from crewai_dbos._journal.payload import Payload
from crewai_dbos._journal.scope import Scope
from crewai_dbos._stored import codec, names
from crewai_dbos._threads import ThreadOrTask, on_thread_of_loop
from crewai_dbos.errors import DriftError, UnstorableValueError


@asynccontextmanager
async def executing(run: FlowRun, method: str) -> AsyncIterator[MethodRun]:
    """The block is the next execution of `method`, up to the moment the engine hears of it."""
    # Nobody's until the method itself runs: what the engine does around it is not counted.
    scope = run.scope.child(names.method(method), runs_on=ThreadOrTask.NOBODY)
    execution = Execution(scope.path, outer=current())
    done = MethodRun(run, method, scope, execution)
    run.enter(execution)
    started = time.time()
    try:
        with scope.work("method"), at_work(execution), run.interceptor.active():
            await scope.unless_abandoned()
            with background.collecting() as done.background:
                try:
                    yield done
                except asyncio.CancelledError:
                    # Abandoned work is not run again, so nobody would ask for the rest of it.
                    await done.background.await_end()
                    raise
    except asyncio.CancelledError:
        scope.abandon(time.time() - started)
        scope.pass_over()
        raise
    finally:
        run.leave(execution, done.ids())


class MethodRun:
    """One execution of one method."""

    def __init__(self, run: FlowRun, method: str, scope: Scope, execution: Execution) -> None:
        self._run = run
        self._method = method
        self._scope = scope
        self._execution = execution
        self._ids: list[int] = []
        self.background = background.Background()

    def ids(self) -> list[int]:
        """The step ids of its entries that wait for their turn."""
        ends = [self._recorded_end(what) for what in (names.METHOD_END, names.FEEDBACK)]
        return [*(end.step_id for end in ends if end is not None), *self._ids]

    def recorded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, which is not run if its end is recorded."""

        async def execute(*args: Any, **kwargs: Any) -> Any:
            entry = self._recorded_end(names.METHOD_END)
            if entry is None:
                return await self._anew(method, args, kwargs)
            self._scope.is_replayed()
            extra = self._scope.extra_of(entry)
            half = [f for f in extra.get("unsettled", {}) if not self._run.is_final(entry, f)]
            await self._run.turn(entry.step_id, self._scope.path)
            value, failed = None, None
            if half or extra.get("again"):
                value, failed = await self._once_more(method, args, kwargs)
                self._credited()
            call = self._call(names.METHOD_END, restore=lambda found: self._apply(found, skip=half))
            done = dict(self._scope.replay_end(call))
            if failed is not None:
                self._stop(failed)
            self._end(entry.step_id)
            return self._returned(done, value)

        return execute

    async def feedback(self, ask: Callable[[], Coroutine[Any, Any, Any]], output: Any) -> Any:
        """What a person said of the method's result: `ask`, which is not asked again.

        Args:
            output: What the method returned.

        Returns:
            What the engine goes on with, as `Flow._run_human_feedback_step`.
        """
        entry = self._recorded_end(names.FEEDBACK)
        call = self._call(names.FEEDBACK)
        if entry is not None:
            await self._run.turn(entry.step_id, self._scope.path)
            done = dict(self._scope.replay_end(call))
            return feedback.restore(self._run.flow, self._method, done, output)
        started = time.time()
        with self._scope.child(names.REVIEW).entered():
            try:
                result = await ask()
            finally:
                await self.background.await_end()
        known = self._run.state.known
        review = feedback.stored_review(self._run.flow, self._method, result, known)
        end = await self._scope.record_end(
            call, lambda: review, time.time() - started, expect=self._expect
        )
        if end.redacted is not None:
            done = self._first_answer(call, end.redacted)
            result = feedback.restore_instead(self._run.flow, self._method, result, done, output)
        await self._run.turn(end.step_id, self._scope.path)
        return result

    async def _anew(self, method: Any, args: Any, kwargs: Any) -> Any:
        await self._run.caught_up(self._scope.path)
        await self._scope.journal.execution.acheck()
        started = time.time()
        failed: Exception | None = None
        value: Any = None
        try:
            value = await self._body(method, args, kwargs)
            self._scope.check_complete(background=False)
        except Exception as error:
            self._scope.raise_if_over()
            failed = error
        collected: dict[str, Any] = {}

        def observe() -> None:
            collected.update(_as_stored(self._credited()))

        def result() -> Any:
            if failed is not None:
                raise failed
            return self._storable(value, collected)

        call = self._call(names.METHOD_END, collect=lambda: collected)
        seconds = time.time() - started
        end = await self._scope.record_end(
            call, result, seconds, expect=self._expect, observe=observe
        )
        if end.redacted is not None:
            value, failed = self._as_redacted(call, end.redacted, value, failed)
        # Before crewAI takes note of the result, whose order is part of what a kickoff returns.
        await self._run.turn(end.step_id, self._scope.path)
        self._end(end.step_id)
        self._warn(collected.get("again", ()))
        if failed is not None:
            raise failed
        return value

    def _as_redacted(
        self, call: Call, stored: Payload, value: Any, failed: Exception | None
    ) -> tuple[Any, Exception | None]:
        """What the user's `redact` has left of its end, also in the state: as on recovery.

        Returns:
            What it returned, and the error that it ended with.
        """
        left = codec.decode(stored.get("extra", {}), self._run.state.known)
        half = left.get("unsettled", {})  # another method is still at work on these
        values = {n: value for n, value in left.get("state", {}).items() if not half.get(n)}
        self._run.state.put_as_stored(values, left.get("same", ()))
        try:
            return self._returned(self._first_answer(call, stored, failed), value), None
        except Exception as error:
            return value, error

    def _first_answer(
        self, call: Call, stored: Payload, failed: Exception | None = None
    ) -> dict[str, Any]:
        raised = () if failed is None else (failed,)
        return dict(self._scope.journal.replay.first_answer(self._scope.path, stored, call, raised))

    async def _once_more(self, method: Any, args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
        """Run a method that has ended, for what of it is not stored or not to be used.

        Returns:
            What it returned, and the error that it ended with.
        """
        try:
            return await self._body(method, args, kwargs), None
        except Exception as error:
            self._scope.raise_if_over()
            return None, error

    def _stop(self, error: Exception) -> NoReturn:
        """Stop the run: a method that had returned fails when it is run again for what it left."""
        run_id = self._scope.run_id
        stopped = DriftError(
            f"Run {run_id}: method {self._method!r} had returned something, or left something in "
            "the state, that could not be stored. So it was run again, and failed "
            f"({type(error).__name__}: {error}). Put that right, then: "
            f"{_command_lines.resume(run_id)}"
        )
        stopped.__cause__ = error
        self._scope.fail(stopped)

    def _credited(self) -> Changes:
        return self._run.state.changes(self._execution, self._run.others(self._execution))

    async def _body(self, method: Any, args: Any, kwargs: Any) -> Any:
        """Call `method` as crewAI does."""
        self._run.state.touch(args)
        try:
            with method_at_work():
                return await self._called(method, args, kwargs)
        finally:
            self._scope.runs_on(ThreadOrTask.NOBODY)
            await self.background.await_end()

    async def _called(self, method: Any, args: Any, kwargs: Any) -> Any:
        working = self._scope.journal.activity.working
        if inspect.iscoroutinefunction(method):
            self._scope.runs_on(ThreadOrTask.here())
            with working():
                return await method(*args, **kwargs)

        def work() -> Any:
            self._scope.runs_on(ThreadOrTask.here())
            with working():
                return method(*args, **kwargs)

        result = await on_thread_of_loop(work)
        if asyncio.iscoroutine(result):
            self._scope.runs_on(ThreadOrTask.here())
            with working():
                result = await result
        return result

    def _recorded_end(self, what: str) -> Entry | None:
        return self._run.recorded_end(self._scope.path, what)

    def _expect(self, step_id: int) -> None:
        self._ids.append(step_id)
        self._run.turns.expect(step_id)

    def _end(self, step_id: int) -> None:
        """The method itself has ended. Where a person is asked about it, others need not wait."""
        if self._run.is_reviewed(self._method):
            self._run.turns.give(step_id, depth.get())

    def _call(self, what: str, **options: Any) -> Call:
        known = self._run.state.known
        return Call(what, kind="method", background=True, known=known, **options)

    def _storable(self, value: Any, collected: dict[str, Any]) -> dict[str, Any]:
        """What a method returned, as it is stored."""
        name = self._run.state.name_of(value)
        if name is not None:
            return {"is": name}
        try:
            stored = {"returned": codec.Encoded(codec.encode(value, self._run.state.known))}
            same = self._run.state.shared_by(value)
            return {**stored, "same": same} if same else stored
        except (UnstorableValueError, RecursionError) as error:
            collected["again"] = [*collected.get("again", ()), f"its result: {error}"]
            return {}

    def _returned(self, done: dict[str, Any], value: Any) -> Any:
        if "is" in done:
            return self._run.state.named(done["is"])
        if "returned" not in done:
            return value
        self._run.state.unite(done.get("same", ()), done["returned"])
        return done["returned"]

    def _apply(self, found: Any, skip: list[str]) -> None:
        values = {n: v for n, v in found.get("state", {}).items() if n not in skip}
        removed = [name for name in found.get("removed", ()) if name not in skip]
        self._run.state.apply(values, removed, found.get("same", ()), found.get("explicit"))

    def _warn(self, again: Sequence[str]) -> None:
        for what in again:
            run_scope.warn_once(
                f"Method {self._method!r} of {type(self._run.flow).__name__} leaves something that "
                f"can't be stored with the run: {what} On recovery the method is run again, with "
                "the calls it made answered from the record."
            )


def _as_stored(changes: Changes) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    if changes.values:
        stored["state"] = changes.values
    if changes.removed:
        stored["removed"] = changes.removed
    if changes.same:
        stored["same"] = changes.same
    if changes.unsettled:
        stored["unsettled"] = changes.unsettled
    if changes.explicit is not None:
        stored["explicit"] = dict.fromkeys(sorted(changes.explicit))
    if changes.unstorable:
        stored["again"] = [
            f"{name if name.startswith(ATTRIBUTE) else f'self.state.{name}'}: {why}"
            for name, why in changes.unstorable.items()
        ]
    return stored
