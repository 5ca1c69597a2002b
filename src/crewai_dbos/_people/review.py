"""Review of a task's result by a person: crewAI's ``human_input=True``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from crewai_dbos._crewai_seam.review import Review, reviewed_by
from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._people.asking import Asking, Said, aask, ask
from crewai_dbos._requests.request import Question
from crewai_dbos._stored import names

_MESSAGE = "Is the result good as it is? If not, say what to change."


def reviewing() -> AbstractContextManager[None]:
    """In the block an agent's result is reviewed through the database, if it works in a run."""
    scope = run_scope.enclosing()
    return nullcontext() if scope is None else reviewed_by(Review(_ask, _aask))


def _ask(output: str, executor: Any) -> str:
    scope = run_scope.enclosing()
    assert scope is not None
    return ask(scope, _call(output), _asking(output, executor), text_of)


async def _aask(output: str, executor: Any) -> str:
    scope = run_scope.enclosing()
    assert scope is not None
    return await aask(scope, _call(output), _asking(output, executor), text_of)


def _call(output: str) -> Call:
    return Call(names.REQUEST, kind="person", request={"output": output})


def _asking(output: str, executor: Any) -> Asking:
    task, agent = executor.task, executor.agent
    question = Question(
        _MESSAGE,
        output=output,
        agent=getattr(agent, "role", None),
        task=getattr(task, "description", None),
    )
    return stopping(Asking.by_policy("review", question))


def stopping(asking: Asking) -> Asking:
    """`asking` of a review: silence that is no approval stops the run."""
    # As an error of the agent's crewAI would try the whole task again, and ask again.
    return replace(asking, on_deadline="approve" if asking.on_deadline == "approve" else "fail")


def text_of(said: Said) -> str:
    """The feedback; empty if there is none to be heeded."""
    return "" if said.answer is None else str(said.answer.get("text", ""))
