"""The scripted model behind the demo's agent, and what it counts."""

from __future__ import annotations

from collections.abc import Callable

from crewai_dbos.testing import Hang, Message, Reply, Request, ToolCall, delayed, hang, text
from crewai_dbos.testing import _openai_wire as wire
from crewai_dbos.testing import tool_calls as asks_for

PEOPLE = ("Ada", "Grace", "Edsger")

_SECONDS_TO_THINK = 0.1


class Model:
    """Asks for one email after the other, then sums up.

    The first time that it is asked for the email after `held_after` others it keeps the caller
    waiting: that is where the demo kills.

    Attributes:
        held: Holds that one request.
        tokens: What the answered requests came to.
    """

    def __init__(self, held_after: int, on_request: Callable[[Request, Message | None], None]):
        self.held: Hang | None = None
        self.tokens = 0
        self._held_after = held_after
        self._on_request = on_request

    def __call__(self, request: Request) -> Reply:
        done = len(request.tool_results)
        if done == self._held_after and self.held is None:
            self._on_request(request, None)
            self.held = hang()
            return self.held
        reply = _invite(PEOPLE[done]) if done < len(PEOPLE) else text(_SUMMARY)
        self.tokens += wire.usage(request, reply)["total_tokens"]
        self._on_request(request, reply)
        return delayed(_SECONDS_TO_THINK, reply)


_SUMMARY = f"{', '.join(PEOPLE[:-1])} and {PEOPLE[-1]} were invited to the review on Friday."


def _invite(person: str) -> Message:
    return asks_for(
        ToolCall(
            "send_email",
            {
                "to": f"{person.lower()}@example.com",
                "subject": "Review on Friday",
                "body": f"Dear {person}, will you join our review on Friday at ten?",
            },
        )
    )
