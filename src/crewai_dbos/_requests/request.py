"""A request to a person, as everybody sees it who knows the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, overload

Kind = Literal["approval", "review", "feedback", "question", "budget"]
State = Literal["open", "answered", "used", "expired", "withdrawn"]
OnDeadline = Literal["reject", "approve", "fail"]


@dataclass(frozen=True)
class Question:
    """What a person is asked.

    Attributes:
        message: The question itself.
        tool: The tool that is to be called, of an approval.
        arguments: What it is to be called with, as JSON data; of a budget the limits to go on with.
        schema: The JSON schema of the arguments, or of the reply to a question.
        edit: Whether the person may change the arguments.
        output: What is to be reviewed.
        outcomes: What a flow goes on with, one of these, of a feedback.
        agent: The role of the agent at work.
        task: The description of its task; of an approval its name or number.
        metadata: What the caller has added, as JSON data.
        tool_description: What the tool says of itself, of an approval.
        task_description: What the agent has been told to do, of an approval in a crew.
    """

    message: str
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    edit: bool = True
    output: str | None = None
    outcomes: list[str] | None = None
    agent: str | None = None
    task: str | None = None
    metadata: dict[str, Any] | None = None
    tool_description: str | None = None
    task_description: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What is stored of it: all that is not as by default."""
        default = vars(Question(self.message))
        own = {n: v for n, v in asdict(self).items() if v != default[n]}
        return {"message": self.message, **own}

    def shown_through(self, function: Callable[[Any], Any]) -> dict[str, Any]:
        """`as_json`, with all but the schema put through `function`."""
        data = self.as_json()
        schema = {"schema": data.pop("schema")} if "schema" in data else {}
        return {**function(data), **schema}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Question:
        """The reverse of `as_json`; what a later release has added is left out."""
        known = {name: value for name, value in stored.items() if name in cls.__dataclass_fields__}
        return cls(**known)


@dataclass(frozen=True)
class Request:
    """A request to a person.

    Attributes:
        request_id: What it is answered by.
        run_id: The workflow id of the run that waits for it.
        path: Where in the run it is asked: a name of the run's journal.
        kind: ``approval`` of a tool call, ``review`` of a task's result (crewAI's ``human_input``),
            ``feedback`` on a flow's method (``@human_feedback``), ``question`` (``ask``), or
            ``budget`` (a run has reached its limit).
        state: ``open``; ``answered`` and not yet seen by the run; ``used`` by it; ``expired`` when
            its deadline had passed; ``withdrawn`` as nothing waits for it any more.
        question: What is asked.
        audience: For whom it is, as the definition says.
        on_deadline: What becomes of it at its deadline.
        created: When it was asked, in UTC.
        deadline: Until when it can be answered; None for ever.
        answer: The answer, as JSON data.
        answered_by: Who has answered.
        answered: When.
    """

    request_id: str
    run_id: str
    path: str
    kind: Kind
    state: State
    question: Question
    audience: str | None = None
    on_deadline: OnDeadline | None = None
    created: datetime | None = None
    deadline: datetime | None = None
    answer: dict[str, Any] | None = field(default=None)
    answered_by: str | None = None
    answered: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain JSON data; times are texts in ISO 8601."""
        found = {**vars(self), "question": self.question.as_json()}
        return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in found.items()}


@overload
def at(milliseconds: int) -> datetime: ...
@overload
def at(milliseconds: int | None) -> datetime | None: ...
def at(milliseconds: int | None) -> datetime | None:
    """A time as it is stored, milliseconds since 1970."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
