"""Endpoints of the form that crewAI's AMP has, for clients that are written for that."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, Field

from crewai_dbos._http import paths, trees
from crewai_dbos._http.api import one_id
from crewai_dbos._http.guarding import Asking
from crewai_dbos._http.problems import Problem, documented
from crewai_dbos._http.runs import ScopedControl
from crewai_dbos._http.shapes import Body
from crewai_dbos._http.texts import Json, Name, Text, sendable
from crewai_dbos.control import Answer, Approve, Feedback, Node, Reject, Reply, Request, Run


class _WithWebhooks(Body):
    taskWebhookUrl: Any = None
    stepWebhookUrl: Any = None
    crewWebhookUrl: Any = None
    webhooks: Any = None

    def refuse_webhooks(self) -> None:
        """Say so where somebody waits for a call that would not come."""
        given = [
            name
            for name in ("taskWebhookUrl", "stepWebhookUrl", "crewWebhookUrl", "webhooks")
            if getattr(self, name) is not None
        ]
        if given:
            raise Problem(
                422,
                f"No webhooks are sent ({', '.join(given)}), so nothing was begun. Follow "
                "GET /runs/{run_id}/events, which loses nothing, or ask GET /status/{kickoff_id}.",
                "no-webhooks",
            )


class Kickoff(_WithWebhooks):
    inputs: dict[str, Json]
    meta: dict[str, Json] | None = Field(default=None, description="Taken, and not used.")
    definition: Name | None = Field(default=None, description="Where there are several.")
    kickoff_id: Name | None = Field(default=None, description="Sent twice, it is one run.")


class KickedOff(BaseModel):
    kickoff_id: str


class Inputs(BaseModel):
    inputs: list[str]


class Progress(BaseModel):
    completed_tasks: int
    total_tasks: int | None = None


class TaskResult(BaseModel):
    task_id: str
    output: str
    agent: str | None = None
    execution_time: float | None = None


class Result(BaseModel):
    output: str
    tasks: list[TaskResult]


class Status(BaseModel):
    status: Literal["running", "awaiting_human_feedback", "completed", "error"]
    current_task: str | None = None
    progress: Progress | None = None
    requests: list[str] | None = Field(default=None, description="What people are asked.")
    result: Result | None = None
    error: str | None = None
    execution_time: float | None = None


class ResumeBody(_WithWebhooks):
    execution_id: Name
    task_id: Name
    human_feedback: Text
    is_approve: bool


class Resumed(BaseModel):
    status: Literal["resumed", "retrying"]
    message: str


def add(router: APIRouter, scoped: ScopedControl) -> None:
    """Add the endpoints to `router`."""

    @router.get("/inputs", responses=documented(404, 501))
    def inputs(caller: Asking, definition: Annotated[Name | None, Query()] = None) -> Inputs:
        """The names of the inputs that a crew wants."""
        return Inputs(inputs=scoped.definitions.inputs(scoped.definition(caller, definition)))

    @router.post("/kickoff", responses=documented(404, 409, 501))
    def kickoff(
        body: Kickoff,
        caller: Asking,
        idempotency_key: Annotated[Name | None, Header()] = None,
    ) -> KickedOff:
        """Begin a run."""
        body.refuse_webhooks()
        kickoff_id = one_id(body.kickoff_id, idempotency_key)
        run_id = scoped.start(caller, body.definition, body.inputs, kickoff_id)
        return KickedOff(kickoff_id=run_id)

    @router.get(
        f"/status/{paths.KICKOFF}", response_model_exclude_none=True, responses=documented(404)
    )
    def status(kickoff_id: Annotated[str, Path(max_length=500)], caller: Asking) -> Status:
        """How a run stands, and what has come of it."""
        run = scoped.run(caller, kickoff_id)
        asked = scoped.requests(caller, run_id=kickoff_id) if run.state == "waiting" else []
        result = sendable(scoped.control.result_of(kickoff_id)) if run.state == "done" else None
        return status_of(run, result, asked)

    @router.post("/resume", responses=documented(404, 409, 410))
    def resume(body: ResumeBody, caller: Asking) -> Resumed:
        """Say what somebody thinks of a task's result, or of a tool call in it."""
        body.refuse_webhooks()
        scoped.run(caller, body.execution_id)
        request = _meant(scoped.requests(caller, run_id=body.execution_id, limit=200), body)
        scoped.answer(caller, request.request_id, _answer(request, body), None)
        return Resumed(
            status="resumed" if body.is_approve else "retrying",
            message=f"Request {request.request_id} is answered.",
        )


def status_of(run: Run, result: Any, asked: list[Request]) -> Status:
    """A run, as AMP says how one stands."""
    tasks = [node for node in trees.every(run.children) if node.kind == "task"]
    if run.state == "done":
        return Status(status="completed", result=_result(result, tasks), execution_time=run.seconds)
    if run.state in ("failed", "cancelled", "stopped"):
        told = run.error or f"{run.state}: {run.reason or 'it is not said why'}"
        return Status(status="error", error=told, execution_time=run.seconds)
    current = next((_task_id(n) for n in tasks if n.state in ("running", "waiting")), None)
    completed = sum(node.state == "done" for node in tasks)
    return Status(
        status="awaiting_human_feedback" if run.state == "waiting" else "running",
        current_task=current,
        progress=Progress(completed_tasks=completed),
        requests=[each.request_id for each in asked] or None,
    )


def _result(result: Any, tasks: list[Node]) -> Result:
    outputs = result.get("tasks_output") if isinstance(result, Mapping) else None
    found = []
    for number, each in enumerate(outputs if isinstance(outputs, list) else []):
        if isinstance(each, Mapping):
            node = tasks[number] if number < len(tasks) else None
            found.append(
                TaskResult(
                    task_id=str(each.get("name") or number + 1),
                    output=_text(each),
                    agent=str(each.get("agent") or "").strip() or None,
                    execution_time=None if node is None else node.seconds,
                )
            )
    return Result(output=_text(result), tasks=found)


def _text(result: Any) -> str:
    if isinstance(result, Mapping) and isinstance(result.get("raw"), str):
        return str(result["raw"])
    if result is None:
        return ""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def _task_id(node: Node) -> str:
    """The name of a task, or its number where it has none."""
    found = re.match(r"task:(\d+)(?:\.(.*?))?(?:#\d+)?$", node.name, re.DOTALL)
    return node.name if found is None else found[2] or found[1]


def _meant(asked: list[Request], body: ResumeBody) -> Request:
    """The one open request of a task.

    Raises:
        Problem: There is none, or several: that is not guessed.
    """
    of_task = [each for each in asked if body.task_id in _tasks_of(each)]
    if len(of_task) == 1:
        return of_task[0]
    if not of_task:
        raise Problem(
            404,
            f"Nothing is asked about task {body.task_id!r} of run {body.execution_id!r} now.",
            "unknown-request",
        )
    ids = [each.request_id for each in of_task]
    raise Problem(
        409,
        f"Task {body.task_id!r} asks {len(ids)} things. Answer each by its id: "
        "POST /requests/{request_id}/answer",
        "several-requests",
        requests=ids,
    )


def _tasks_of(request: Request) -> set[str]:
    found = {request.request_id}
    for part in request.path.split("/"):
        task = re.fullmatch(r"task:(\d+)(?:\.(.*))?#\d+", part, re.DOTALL)
        if task is not None:
            found |= {task[1], *([task[2]] if task[2] else [])}
        elif part.startswith("method:"):
            found.add(part.removeprefix("method:").rpartition("#")[0])
    return found


def _answer(request: Request, body: ResumeBody) -> Answer:
    if request.kind == "question":
        return Reply(body.human_feedback)
    if request.kind in ("approval", "budget"):
        return Approve() if body.is_approve else Reject(body.human_feedback)
    return Approve() if body.is_approve else Feedback(body.human_feedback)
