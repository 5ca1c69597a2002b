"""What a hook of crewAI's asks a person: ``context.request_human_input``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from crewai.hooks.dispatch import HookAborted

from crewai_dbos._journal import run_scope
from crewai_dbos._journal.call import Call
from crewai_dbos._people.asking import Asking, Said, ask
from crewai_dbos._requests.request import Question
from crewai_dbos._stored import names


def asking(original: Callable[..., str]) -> Callable[..., str]:
    """A hook context's ``request_human_input``, which in a run asks through the database."""

    @functools.wraps(original)
    def request_human_input(self: Any, prompt: str, *args: Any, **kwargs: Any) -> str:
        scope = run_scope.enclosing()
        if scope is None:
            return original(self, prompt, *args, **kwargs)
        question = Question(
            prompt,
            agent=getattr(self.agent, "role", None),
            task=getattr(self.task, "description", None),
        )
        call = Call(names.ASK, kind="person", request={"message": prompt})
        answer = ask(scope, call, Asking.by_policy("question", question), _text)
        if answer is None:
            # crewAI goes on after any other error of a hook.
            raise HookAborted(reason=f"nobody has answered in time: {prompt}")
        return answer

    return request_human_input


def _text(said: Said) -> str | None:
    return None if said.reply is None else said.reply.strip()
