"""What a script can answer: small values that say what the server sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """One tool call of a reply.

    `arguments` given as a string go out unchanged, so that a test can send broken JSON. Without
    an `id` the server derives one from the request and the call's position.

    Example::

        from crewai_dbos.testing import ToolCall, tool_calls

        reply = tool_calls(ToolCall("send_email", {"to": "ann", "body": "Soon."}))
    """

    name: str
    arguments: Mapping[str, Any] | str
    id: str | None = None

    def __post_init__(self) -> None:
        # Arguments that are not JSON must fail in the script, not later inside the server.
        _ = self.arguments_json

    @property
    def arguments_json(self) -> str:
        """The arguments as the model would write them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class Message:
    """A completed model turn. Made by `text`, `structured`, `tool_calls` and the react helpers."""

    content: str | None
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"


@dataclass(frozen=True)
class ApiError:
    """An error reply. Made by `error` and `context_length_exceeded`."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True)
class Drop:
    """A connection closed early. Made by `drop`."""

    partway: Message | None = None


@dataclass(frozen=True)
class Delayed:
    """A reply sent after some time. Made by `delayed`."""

    seconds: float
    then: Reply


class Hang:
    """A reply held back until `release`. Made by `hang`.

    One value may hold several requests; `release` lets all of them go, and later ones pass
    straight through. A client that goes away or a server that stops ends the wait too.
    """

    def __init__(self, then: Reply, *, partway: bool = False) -> None:
        self.then = then
        self.partway = partway
        self._changed = threading.Condition()
        self._held = 0
        self._released = False
        self._callbacks: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        state = "released" if self._released else f"{self._held} held"
        return f"Hang({self.then!r}, partway={self.partway}, {state})"

    def wait_until_held(self, count: int = 1, timeout: float = 30.0) -> None:
        """Block until `count` requests have arrived at this reply, else raise TimeoutError.

        Example::

            import os

            from crewai_dbos.testing import ModelServer, hang, text
            from dbos import DBOS

            held = hang(text("Late."))
            with ModelServer(lambda request: held) as server:
                os.environ.update(server.env)
                run = crew.start({"topic": "otters"})
                held.wait_until_held()
                DBOS.cancel_workflow(run.workflow_id)
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._held >= count, timeout):
                raise TimeoutError(f"{self._held} of {count} requests held after {timeout} s")

    def release(self) -> None:
        """Let every held request go on to its reply.

        Example::

            import os

            from crewai_dbos.testing import ModelServer, hang, text

            held = hang(text("Late."))
            with ModelServer(lambda request: held) as server:
                os.environ.update(server.env)
                run = crew.start({"topic": "otters"})
                held.wait_until_held()
                held.release()
                assert run.get_result().raw == "Late."
        """
        with self._changed:
            self._released = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def hold(self, on_release: Callable[[], None]) -> None:
        """For the server: count one more held request, and have `on_release` called once."""
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            if not self._released:
                self._callbacks.append(on_release)
                return
        on_release()


Reply = Message | ApiError | Drop | Delayed | Hang


def text(content: str, *, finish_reason: str = "stop") -> Message:
    """An assistant message with this text.

    Example::

        from crewai_dbos.testing import text

        reply = text("Dear customer.")
    """
    return Message(content, finish_reason=finish_reason)


def structured(value: Any) -> Message:
    """An assistant message whose text is `value` (a pydantic model or plain data) as JSON.

    Example::

        from crewai_dbos.testing import structured

        reply = structured({"complaint": True, "urgency": 3})
    """
    if hasattr(value, "model_dump_json"):
        return Message(str(value.model_dump_json()))
    return Message(json.dumps(value))


def tool_calls(*calls: ToolCall, content: str | None = None) -> Message:
    """An assistant message that asks for these tool calls, all in one turn.

    Example::

        from crewai_dbos.testing import ToolCall, tool_calls

        reply = tool_calls(ToolCall("look_up", {"ticket": 7}), ToolCall("look_up", {"ticket": 8}))
    """
    return Message(content, calls, "tool_calls")


def react_call(name: str, arguments: Mapping[str, Any], thought: str = "I use a tool.") -> Message:
    """One tool call in the text form that crewAI reads from models without native tool calls.

    Example::

        from crewai_dbos.testing import react_call

        reply = react_call("look_up", {"ticket": 7})
    """
    steps = f"Thought: {thought}\nAction: {name}\nAction Input: {json.dumps(arguments)}"
    return Message(steps)


def react_answer(answer: str, thought: str = "I now know the final answer") -> Message:
    """The last turn of a conversation in crewAI's text form.

    Example::

        from crewai_dbos.testing import react_answer

        reply = react_answer("Dear customer.")
    """
    return Message(f"Thought: {thought}\nFinal Answer: {answer}")


_KNOWN_ERRORS: dict[int, tuple[str, str, str | None]] = {
    400: ("The request is invalid.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    404: ("The model does not exist.", "invalid_request_error", "model_not_found"),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", "server_error", None),
    503: ("The engine is currently overloaded.", "server_error", None),
}


def error(
    status: int,
    *,
    message: str | None = None,
    type: str | None = None,
    code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """An error reply with OpenAI's body; what is not given takes the usual value for `status`.

    `retry_after` (seconds) becomes a Retry-After header. The openai SDK ignores a value of 0.

    Example::

        from crewai_dbos.testing import ModelServer, error, text

        busy_once = ModelServer([error(429, retry_after=1), text("Dear customer.")])
    """
    known_message, known_type, known_code = _KNOWN_ERRORS.get(
        status, (f"Error {status}.", "server_error" if status >= 500 else "api_error", None)
    )
    return ApiError(
        status, message or known_message, type or known_type, code or known_code, param, retry_after
    )


def context_length_exceeded(limit: int = 128_000, used: int = 130_000) -> ApiError:
    """OpenAI's answer to a conversation that is too long.

    Example::

        from crewai_dbos.testing import ModelServer, context_length_exceeded, text

        too_long = ModelServer([context_length_exceeded(), text("In short."), text("Done.")])
    """
    return error(
        400,
        message=f"This model's maximum context length is {limit} tokens. However, your messages "
        f"resulted in {used} tokens. Please reduce the length of the messages.",
        code="context_length_exceeded",
        param="messages",
    )


def drop(*, partway: Message | None = None) -> Drop:
    """Close the connection before any byte of a reply, or halfway through `partway`.

    Example::

        from crewai_dbos.testing import ModelServer, drop, text

        cut_off_once = ModelServer([drop(partway=text("Dear cust")), text("Dear customer.")])
    """
    return Drop(partway)


def delayed(seconds: float, then: Reply) -> Delayed:
    """Wait, then reply.

    Example::

        from crewai_dbos.testing import delayed, text

        reply = delayed(0.5, text("Dear customer."))
    """
    return Delayed(seconds, then)


def hang(then: Reply | None = None, *, partway: bool = False) -> Hang:
    """Hold the reply until the returned value's `release()`, then send `then`.

    With `partway` the first half of `then` (a message) goes out before the wait.

    Example::

        from crewai_dbos.testing import Request, hang, text

        held = hang(text("Dear customer."))

        def script(request: Request):
            return held if "ticket 7" in request.last_user_text else text("Yes.")
    """
    then = Message("released") if then is None else then
    if partway and not isinstance(then, Message):
        raise TypeError("hang(partway=True) needs a message, such as text(...) or tool_calls(...)")
    return Hang(then, partway=partway)
