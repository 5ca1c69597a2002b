"""The scripted model behind the demo's agent, and what it counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from crewai_dbos.testing import Message, Reply, Request, ToolCall, delayed, hang, text, tool_calls
from crewai_dbos.testing import _openai_wire as wire

PEOPLE = ("Ada", "Grace", "Edsger")

_SECONDS_TO_THINK = 0.05


class Model:
    """Asks for one email after the other, then sums up.

    The first request after `emails_before` emails is never answered: there the demo kills.

    Attributes:
        held: Set when that request has come.
        answered: How many requests got an answer.
        tokens: What the answered requests came to.
    """

    def __init__(
        self, emails_before: int, on_request: Callable[[Request, Message | None], None]
    ) -> None:
        self.held = threading.Event()
        self.answered = 0
        self.tokens = 0
        self._emails_before = emails_before
        self._on_request = on_request

    def __call__(self, request: Request) -> Reply:
        emails = len(request.tool_results)
        if emails == self._emails_before and not self.held.is_set():
            self._on_request(request, None)
            self.held.set()
            return hang()
        reply = _invitation(PEOPLE[emails]) if emails < len(PEOPLE) else text(_SUMMARY)
        self.answered += 1
        self.tokens += wire.usage(request, reply)["total_tokens"]
        self._on_request(request, reply)
        return delayed(_SECONDS_TO_THINK, reply)


_SUMMARY = f"{', '.join(PEOPLE[:-1])} and {PEOPLE[-1]} are invited to the review on Friday."


def _invitation(person: str) -> Message:
    return tool_calls(
        ToolCall(
            "send_email",
            {
                "to": f"{person.lower()}@example.com",
                "subject": "Review on Friday",
                "body": f"Dear {person}, will you join our review on Friday at ten?",
            },
        )
    )
