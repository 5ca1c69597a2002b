"""What one client asked of the model server."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "cookie"})

# What decides a model's reply. Sampling and transport settings are left out, so that the same
# conversation keeps one fingerprint whether or not it is streamed.
_IDENTITY = ("model", "messages", "input", "tools", "tool_choice", "response_format")


@dataclass(frozen=True)
class Request:
    """One request, as it arrived.

    `number` counts from 1 among the requests to the same path. `headers` have lower-case names
    and no credentials; `has_auth` tells whether there were any. `received_at` is `time.time()`.
    `earlier` are the requests to the same path before this one.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    has_auth: bool = False
    number: int = 1
    received_at: float = field(default_factory=time.time)
    earlier: Sequence[Request] = field(default=(), repr=False, compare=False)

    @property
    def model(self) -> str:
        """The model name asked for."""
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, as sent."""
        return list(self.body.get("messages") or [])

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tool definitions offered to the model, as sent."""
        return list(self.body.get("tools") or [])

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The structured output asked for, or None."""
        return self.body.get("response_format")

    @property
    def schema_name(self) -> str | None:
        """The name of the structured output asked for: the pydantic class, for crewAI."""
        schema = (self.response_format or {}).get("json_schema") or {}
        return schema.get("name")

    @property
    def forced_tool(self) -> str | None:
        """The one tool the model must call, or None when it may choose."""
        choice = self.body.get("tool_choice")
        return choice["function"]["name"] if isinstance(choice, dict) else None

    @property
    def stream(self) -> bool:
        """Whether the client asked for server-sent events."""
        return bool(self.body.get("stream"))

    @property
    def offered_tools(self) -> list[str]:
        """The names of the tools offered to the model."""
        return [str(tool.get("function", {}).get("name", "")) for tool in self.tools]

    @property
    def system_text(self) -> str:
        """The text of all system messages; this is where crewAI names the agent's role."""
        texts = [_text(m) for m in self.messages if m.get("role") in ("system", "developer")]
        return "\n".join(texts)

    @property
    def last_user_text(self) -> str:
        """The text of the last user message, or an empty string."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return _text(message)
        return ""

    @property
    def tool_results(self) -> list[tuple[str, str]]:
        """Every tool result in the conversation: (tool call id, text)."""
        return [
            (str(message.get("tool_call_id", "")), _text(message))
            for message in self.messages
            if message.get("role") == "tool"
        ]

    @property
    def assistant_turns(self) -> int:
        """How many assistant messages the conversation holds."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def identity(self) -> dict[str, Any]:
        """What of the body decides the reply."""
        return {key: self.body.get(key) for key in _IDENTITY}

    @property
    def fingerprint(self) -> str:
        """A digest of what decides the reply; equal requests have equal fingerprints."""
        return digest(json.dumps(self.identity, sort_keys=True, ensure_ascii=False))


def digest(value: str) -> str:
    """A short stable digest of a text."""
    return hashlib.sha256(value.encode()).hexdigest()[:24]


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a string, a list of parts or nothing."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    return str(content or "")
