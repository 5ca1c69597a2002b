"""What is sent and answered, as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from crewai_dbos._http.texts import Json, Name, Text, sendable
from crewai_dbos.control import Answer, Approve, Cost, Feedback, Reject, Reply, Request, Run, Tokens


class Body(BaseModel):
    """What somebody sends. A field that nobody knows is refused: it would be lost."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Start(Body):
    definition: Name | None = Field(default=None, description="Needed where there are several.")
    inputs: dict[str, Json] | None = None
    run_id: Name | None = Field(default=None, description="Sent twice, it is one run.")
    queue: Name | None = Field(default=None, description="A DBOS queue that is registered.")


class Started(BaseModel):
    run_id: str


class Cancel(Body):
    reason: Text | None = None
    by: Name | None = Field(default=None, description="Who, of a program with a token.")


class Resume(Body):
    timeout: float | None = Field(default=None, gt=0, le=10**9, description="Seconds.")
    even_if_forked: bool = Field(default=False, description="A fork makes what is left, too.")


class Fork(Body):
    at: Name | list[Name] | None = Field(default=None, description="A place, or several.")
    inputs: dict[str, Json] | None = None
    edit: dict[Name, Json] | None = None
    version: Name | None = None
    by: Name | None = None
    run_id: Name | None = Field(default=None, description="Of the fork. Sent twice, it is one.")
    even_if_forked: bool = Field(default=False, description="Another makes what is left, too.")


class ApproveBody(Body):
    is_: Literal["approve"] = Field(alias="is")
    arguments: dict[str, Json] | None = Field(default=None, description="Those that change.")
    by: Name | None = None

    def answer(self) -> Answer:
        return Approve(self.arguments)


class RejectBody(Body):
    is_: Literal["reject"] = Field(alias="is")
    reason: Text = ""
    by: Name | None = None

    def answer(self) -> Answer:
        return Reject(self.reason)


class FeedbackBody(Body):
    is_: Literal["feedback"] = Field(alias="is")
    text: Text = Field(min_length=1)
    by: Name | None = None

    def answer(self) -> Answer:
        return Feedback(self.text)


class ReplyBody(Body):
    is_: Literal["reply"] = Field(alias="is")
    value: Json
    by: Name | None = None

    def answer(self) -> Answer:
        return Reply(self.value)


AnswerBody = Annotated[
    ApproveBody | RejectBody | FeedbackBody | ReplyBody, Field(discriminator="is_")
]


class Runs(BaseModel):
    runs: list[Run]
    cursor: str | None = Field(default=None, description="Where the next page begins.")


class Whole(BaseModel):
    """A run with its result."""

    run: Run
    result: Any = None


class OfModel(BaseModel):
    model: str | None
    tokens: Tokens


class CostShape(BaseModel):
    tokens: Tokens
    usd: float | None
    models: list[OfModel]
    unpriced: list[str]
    saved: int
    taken_over: Tokens
    taken_over_usd: float | None

    @classmethod
    def of(cls, cost: Cost) -> CostShape:
        models = [OfModel(model=model, tokens=tokens) for model, tokens in cost.models.items()]
        return cls(
            tokens=cost.tokens,
            usd=cost.usd,
            models=models,
            unpriced=[*cost.unpriced],
            saved=cost.saved,
            taken_over=cost.taken_over,
            taken_over_usd=cost.taken_over_usd,
        )


class QuestionShape(BaseModel):
    message: str
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    edit: bool = True
    output: str | None = None
    outcomes: list[str] | None = None
    agent: str | None = None
    task: str | None = None
    metadata: dict[str, Any] | None = None
    tool_description: str | None = None
    task_description: str | None = None


class RequestShape(BaseModel):
    request_id: str
    run_id: str
    path: str
    kind: str
    state: str
    question: QuestionShape
    audience: str | None
    on_deadline: str | None
    created: datetime | None
    deadline: datetime | None
    answer: dict[str, Any] | None
    answered_by: str | None
    answered: datetime | None

    @classmethod
    def of(cls, request: Request) -> RequestShape:
        return cls.model_validate(sendable(asdict(request)))


class Requests(BaseModel):
    requests: list[RequestShape]
