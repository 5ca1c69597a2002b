"""`ask`: a question of the user's own code to a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from crewai_dbos._journal import joining, run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._journal.scope import Scope
from crewai_dbos._people import asking, policy
from crewai_dbos._people.asking import Asking, Said
from crewai_dbos._requests.request import Question
from crewai_dbos._stored import names
from crewai_dbos._threads import in_event_loop
from crewai_dbos.errors import DefinitionError, EventLoopError, OutsideRunError, RequestExpired

T = TypeVar("T")

_NONE: Any = object()


@overload
def ask(
    question: str,
    *,
    schema: type[T],
    outcomes: None = None,
    deadline: timedelta | None = None,
    default: T = ...,
    audience: str | None = None,
) -> T: ...
@overload
def ask(
    question: str,
    *,
    schema: None = None,
    outcomes: Sequence[str] | None = None,
    deadline: timedelta | None = None,
    default: str = ...,
    audience: str | None = None,
) -> str: ...
def ask(
    question: str,
    *,
    schema: Any = None,
    outcomes: Sequence[str] | None = None,
    deadline: timedelta | None = None,
    default: Any = _NONE,
    audience: str | None = None,
) -> Any:
    """Ask a person, and wait for the reply: minutes or days, over any number of processes.

    In a tool, a callback, a method of a `DBOSFlow` or a workflow of your own. The question is a
    request that anyone who knows the database can answer, with `crewai_dbos.control.Control` or
    ``crewai-dbos inbox``. A run of a durable definition in which nothing goes on but waits is left
    to its row in the database. When it is woken, the tool or method that asks runs again from its
    beginning, with its recorded calls answered from the record.

    Args:
        question: What is asked.
        schema: What the reply has to be: a pydantic model, or any type that pydantic knows. A text
            by default.
        outcomes: The texts that can be replied.
        deadline: For how long it can be answered; by default as the `People` of the definition say.
        default: What is returned if nobody has answered by then.
        audience: For whom it is; by default as the `People` say.

    Returns:
        The reply, of the type of `schema`.

    Raises:
        RequestExpired: Nobody has answered in time, and there is no `default`.
        OutsideRunError: The code is not part of a durable run, or of a recorded step.
        EventLoopError: An event loop runs here, and would wait: ``await ask_async(...)``.

    Example::

        from crewai.tools import tool
        from crewai_dbos import ask
        from pydantic import BaseModel

        class Account(BaseModel):
            number: int

        @tool
        def account_of(customer: str) -> str:
            '''The account of a customer.'''
            account = ask(f"Which account has {customer}?", schema=Account)
            return str(account.number)
    """
    if in_event_loop():
        raise EventLoopError(
            "ask() was called inside an event loop, which would wait for a person. Use: "
            "await ask_async(...)"
        )
    asked = _Asked(question, schema, outcomes, deadline, default, audience)
    scope = _scope()
    with joining.sparing_worker():
        while True:
            reply = asking.ask(scope, asked.call(), asked.asking(), _reply)
            if asked.accepts(reply):
                return asked.value


@overload
async def ask_async(
    question: str,
    *,
    schema: type[T],
    outcomes: None = None,
    deadline: timedelta | None = None,
    default: T = ...,
    audience: str | None = None,
) -> T: ...
@overload
async def ask_async(
    question: str,
    *,
    schema: None = None,
    outcomes: Sequence[str] | None = None,
    deadline: timedelta | None = None,
    default: str = ...,
    audience: str | None = None,
) -> str: ...
async def ask_async(
    question: str,
    *,
    schema: Any = None,
    outcomes: Sequence[str] | None = None,
    deadline: timedelta | None = None,
    default: Any = _NONE,
    audience: str | None = None,
) -> Any:
    """As `ask`, for async code.

    A limit around it (`asyncio.wait_for`) lives in this process, and is gone when the run is left
    to its row. For one that holds give it a `deadline`.

    Example::

        from crewai.flow.flow import Flow, start
        from crewai_dbos import DBOSFlow, ask_async

        class Intake(Flow):
            @start()
            async def topic(self) -> str:
                return await ask_async("What about?")

        intake = DBOSFlow(flow_name="intake", orig_flow=Intake)
    """
    asked = _Asked(question, schema, outcomes, deadline, default, audience)
    scope = _scope()
    while True:
        reply = await asking.aask(scope, asked.call(), asked.asking(), _reply)
        if asked.accepts(reply):
            return asked.value


class _Asked:
    """A question, and what is a reply to it."""

    value: Any

    def __init__(
        self,
        question: str,
        schema: Any,
        outcomes: Sequence[str] | None,
        deadline: timedelta | None,
        default: Any,
        audience: str | None,
    ) -> None:
        if schema is not None and outcomes is not None:
            raise DefinitionError("ask() takes a schema or outcomes, not both")
        if outcomes is not None:
            schema = Literal[tuple(outcomes)]
        self._question = question
        self._type = None if schema is None else TypeAdapter(schema)
        self._schema = None if self._type is None else self._type.json_schema()
        self._outcomes = None if outcomes is None else list(outcomes)
        self._deadline = deadline
        self._default = default
        self._audience = audience
        self._problem = ""

    def call(self) -> Call:
        request = {"message": self._message(), "schema": self._schema}
        return Call(names.ASK, kind="person", request=request)

    def asking(self) -> Asking:
        people = policy.current()
        question = Question(self._message(), schema=self._schema, outcomes=self._outcomes)
        seconds = people.seconds if self._deadline is None else self._deadline.total_seconds()
        ends = people.on_deadline if self._default is _NONE else "reject"
        return Asking("question", question, seconds, ends, self._audience or people.audience)

    def accepts(self, reply: dict[str, Any]) -> bool:
        """Whether `reply` is one; it is the `value` then.

        Raises:
            RequestExpired: It says that nobody has replied, and there is no default.
        """
        if "expired" in reply:
            if self._default is _NONE:
                raise RequestExpired(f"Nobody has answered in time: {self._question}")
            self.value = self._default
            return True
        if self._type is None:
            self.value = reply["value"]
            return True
        try:
            self.value = self._type.validate_python(reply["value"])
        except ValidationError as error:
            # What its JSON schema does not say, as validators of the user's.
            self._problem = f" (The last reply was not taken: {error})"
            return False
        return True

    def _message(self) -> str:
        return self._question + self._problem


def _reply(said: Said) -> dict[str, Any]:
    if said.answer is None:
        return {"expired": True}
    return {"value": said.answer["value"], "by": said.by}


def _scope() -> Scope:
    scope = run_scope.enclosing()
    if scope is not None:
        return scope
    if run_scope.in_step():
        raise OutsideRunError(
            "ask() was called inside a recorded step, which would be made again once it is "
            "answered. Ask before the step; in a tool, leave away @DBOS.step and a StepConfig with "
            "retries or a time limit."
        )
    raise OutsideRunError(
        "ask() works inside a durable run: in a tool, a callback or a method of a DBOSAgent, a "
        "DBOSCrew or a DBOSFlow, or in a DBOS workflow of yours, with DBOS launched."
    )
