"""A task of a durable crew: what happens in it is recorded under its number and name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from crewai import Task
from crewai.tasks.conditional_task import ConditionalTask

from crewai_dbos._classes import durable_class, overrides
from crewai_dbos._crewai_seam.crew import (
    forget_guardrails,
    forget_task_state,
    handing_signals_to_futures,
    replace_guardrails,
)
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import stable_id
from crewai_dbos._objects import callbacks
from crewai_dbos._objects.conversion import recording
from crewai_dbos._objects.options import AgentOptions
from crewai_dbos._objects.run_objects import RunObjects
from crewai_dbos._people.approval import in_task
from crewai_dbos._stored import names
from crewai_dbos._stored.work_order import TASK_MODELS

_PLACE = "_crewai_dbos_place"


def task_class(cls: type[Task]) -> type[Task]:
    """That of the tasks of runs, for tasks of class `cls`."""
    return durable_class(_RunTask, cls)


def task_of_run(
    task: Task, number: int, options: AgentOptions, objects: RunObjects, id_: UUID | None
) -> Task:
    """A durable copy of `task`, the `number`-th of its crew, counting from 1.

    Its agent and its context are still those of the user's crew. Handlers of events know it by
    `id_`, that of the user's task when the run began; without one it has one of the run's own.
    """
    what = names.task(number, task.name)
    copied = copy.copy(task)
    forget_task_state(copied)
    copied.__class__ = task_class(type(task))
    fields = copied.__dict__
    fields["id"] = id_ or stable_id(objects.scope, what)
    fields[_PLACE] = (objects.scope, what)
    fields["tools"] = objects.tools(task.tools or [], options.tool_step_config)
    if task.callback is not None:
        fields["callback"] = callbacks.recorded(task.callback, names.CALLBACK)
    if task.converter_cls is not None:
        fields["converter_cls"] = recording(task.converter_cls)
    if isinstance(task, ConditionalTask) and task.condition is not None:
        fields["condition"] = callbacks.recorded(task.condition, names.CONDITION, keep=True)
    known = [model for name in TASK_MODELS if (model := getattr(task, name, None)) is not None]
    replace_guardrails(copied, lambda each: objects.guardrail(each, options, known))
    return copied


if TYPE_CHECKING:
    _Base = Task
else:
    _Base = object


@overrides(Task)
class _RunTask(_Base):
    """Overrides of `Task`."""

    def execute_sync(self, *args: Any, **kwargs: Any) -> Any:
        with _in_its_place(self):
            return super().execute_sync(*args, **kwargs)

    async def aexecute_sync(self, *args: Any, **kwargs: Any) -> Any:
        with _in_its_place(self):
            return await super().aexecute_sync(*args, **kwargs)

    @handing_signals_to_futures
    def _execute_task_async(
        self, agent: Any, context: Any, tools: Any, future: Future[Any]
    ) -> None:
        with _in_its_place(self):
            super()._execute_task_async(agent, context, tools, future)

    def _save_file(self, result: Any) -> None:
        """Write the output file once; on recovery only if it is gone."""
        write = super()._save_file
        path = Path(str(self.output_file)).expanduser()
        made: list[bool] = []

        def save() -> str:
            write(result)
            made.append(True)
            return str(path)

        run_scope.record(lambda: Call(names.OUTPUT_FILE, kind="file"), save)
        if not made and not path.exists():
            write(result)


@contextmanager
def _in_its_place(task: Any) -> Iterator[None]:
    crew, what = task.__dict__[_PLACE]
    scope = crew.child(what)
    with scope.work("task"), in_task(task.description):
        if scope.is_recorded(names.EDITED):
            forget_guardrails(task)  # a person has said what the output is
        yield
        scope.check_complete(background=False)
