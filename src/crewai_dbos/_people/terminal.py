"""A terminal that a program runs in: who sits there is asked too, and may answer first."""

from __future__ import annotations

import builtins
import json
import sys
import threading

from crewai_dbos import _user
from crewai_dbos._people.waiting import Wait, launched
from crewai_dbos._printable import plain, plain_lines
from crewai_dbos._requests.answers import (
    Answer,
    Approve,
    Feedback,
    Reject,
    Reply,
    reply_from,
)
from crewai_dbos._requests.request import Request
from crewai_dbos._stored import sealing
from crewai_dbos.errors import AnswerError

_HOW = {
    "approval": "y to allow it; anything else is why not.",
    "review": "Enter if it is good as it is; anything else is what to change.",
    "feedback": "Your feedback, or Enter for none.",
    "question": "Your answer.",
    "budget": "y to raise the limit to that; anything else is why not.",
}


def offer(request: Request, wait: Wait) -> None:
    """Let whoever sits at the terminal answer `request`, if there is one."""
    if is_there():
        _prompts.add(request, wait)


def is_there() -> bool:
    """Whether `input` finds somebody: at a terminal, or behind a function put in its place."""
    if type(builtins.input).__name__ != "builtin_function_or_method":
        return True  # as notebooks and tests do
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class _Prompts:
    """Asks one thing after the other, on a thread that nobody waits for: `input` can't be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Request, Wait]] = []
        self._is_running = False

    def add(self, request: Request, wait: Wait) -> None:
        with self._lock:
            self._waiting.append((request, wait))
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._ask_all, name="crewai-dbos-terminal", daemon=True).start()

    def _ask_all(self) -> None:
        while True:
            with self._lock:
                self._waiting = [each for each in self._waiting if not each[1].outcome.done()]
                if not self._waiting:
                    self._is_running = False
                    return
                request, wait = self._waiting[0]
            try:
                again = self._ask(request, wait)
            except Exception as error:  # of a database that is away, or closed
                print(f"{type(error).__name__}: answer it from elsewhere, {request.request_id}")
                again = False
            if not again:
                with self._lock:
                    self._waiting = [each for each in self._waiting if each[1] is not wait]

    def _ask(self, request: Request, wait: Wait) -> bool:
        """Whether to ask again, if nobody has answered meanwhile."""
        _show(request)
        try:
            line = input("> ").strip()
        except (EOFError, OSError):
            return False
        if not line and request.kind in ("approval", "budget"):
            return True
        try:
            launched().store.answer(
                request.request_id,
                _answer(request, line),
                _user.name(),
                sealing.opened,
                sealing.seal,
            )
        except AnswerError as error:
            print(error)
            return not wait.outcome.done()
        return False


_prompts = _Prompts()


def _show(request: Request) -> None:
    question = request.question
    lines = [f"\n{plain_lines(question.message)}"]
    if question.output:
        lines.append(plain_lines(question.output))
    if question.arguments is not None:
        lines += [f"  {plain(name)} = {json.dumps(v)}" for name, v in question.arguments.items()]
    lines.append(f"{_HOW[request.kind]} (Or from elsewhere: request {request.request_id})")
    print("\n".join(lines), flush=True)


def _answer(request: Request, line: str) -> Answer:
    if request.kind in ("approval", "budget"):
        return Approve() if line.lower() in ("y", "yes") else Reject(line)
    if request.kind == "question":
        return Reply(reply_from(line, request.question.schema))
    return Feedback(line)
