"""The OpenAI API's JSON and event-stream shapes. Pure functions, no I/O."""

from __future__ import annotations

import array
import base64
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .replies import ApiError, Message, error
from .request import Request, digest

Json = dict[str, Any]

# Replies must not depend on the clock, so that equal requests get equal bytes.
_CREATED = 1_700_000_000

MODELS = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")


def completion(request: Request, message: Message) -> Json:
    """The body of a chat completion that was not streamed."""
    return {
        **_envelope(request, "chat.completion"),
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": message.content,
                    "refusal": None,
                    **({"tool_calls": _calls(request, message)} if message.calls else {}),
                },
                "logprobs": None,
                "finish_reason": message.finish_reason,
            }
        ],
        "usage": usage(request, message),
    }


def events(request: Request, message: Message) -> list[bytes]:
    """The same completion as server-sent events, each text and argument split in pieces."""
    chunks = [_chunk(request, delta) for delta in _deltas(request, message)]
    chunks.append(_chunk(request, {}, message.finish_reason))
    if (request.body.get("stream_options") or {}).get("include_usage"):
        for chunk in chunks:
            chunk["usage"] = None
        last = {**_envelope(request, "chat.completion.chunk"), "choices": []}
        chunks.append({**last, "usage": usage(request, message)})
    return [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


def usage(request: Request, message: Message) -> Json:
    """Token figures: one token per word, so that equal requests cost the same."""
    prompt = sum(_words(given) for given in (*request.messages, *request.tools))
    answer = _words(message.content) + sum(_words(call.arguments_json) for call in message.calls)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def error_body(reply: ApiError) -> Json:
    """The body of an error reply."""
    return {
        "error": {
            "message": reply.message,
            "type": reply.type,
            "param": reply.param,
            "code": reply.code,
        }
    }


def models() -> Json:
    """The body of GET /v1/models."""
    return {"object": "list", "data": [model(name) for name in MODELS]}


def model(name: str) -> Json:
    """The body of GET /v1/models/{name}."""
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "crewai-dbos"}


def embeddings(request: Request, dimensions: int) -> Json:
    """The body of POST /v1/embeddings."""
    given = request.body.get("input") or []
    # A list of numbers is one text, already tokenised.
    one_text = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    texts = [given] if one_text else list(given)
    as_base64 = request.body.get("encoding_format") == "base64"
    size = int(request.body.get("dimensions") or dimensions)
    vectors = [embed(text if isinstance(text, str) else json.dumps(text), size) for text in texts]
    words = sum(_words(text) for text in texts)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


def embed(text: str, dimensions: int) -> list[float]:
    """A unit vector derived from the text's words: texts that share words lie close together."""
    vector = [0.0] * dimensions
    for word in text.lower().split() or [""]:
        seed = hashlib.sha256(word.encode()).digest()
        # Several places for each word keep two words from cancelling each other out.
        for at in range(0, 32, 8):
            number = int.from_bytes(seed[at : at + 8], "big")
            vector[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = math.sqrt(sum(value * value for value in vector))
    if not length:
        return [1.0] + [0.0] * (dimensions - 1)
    return [value / length for value in vector]


def request_fault(request: Request) -> ApiError | None:
    """The refusal OpenAI gives to a chat request it cannot accept, or None.

    Checks the pairing of tool calls and tool results, because a conversation that was put
    together wrongly is what a test of recovery must not miss.
    """
    if not request.model:
        return error(400, message="you must provide a model parameter")
    if not request.messages:
        return error(400, message="Missing required parameter: 'messages'.", param="messages")
    open_calls: list[str] = []
    for at, message in enumerate(request.messages):
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in open_calls:
                return error(
                    400,
                    message="Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceding message with 'tool_calls'.",
                    param=f"messages.[{at}].role",
                )
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            break
        open_calls = [call["id"] for call in message.get("tool_calls") or []]
    if open_calls:
        return error(
            400,
            message="An assistant message with 'tool_calls' must be followed by tool messages "
            "responding to each 'tool_call_id'. The following tool_call_ids did not have response "
            f"messages: {', '.join(open_calls)}",
            param="messages",
        )
    return None


def _envelope(request: Request, kind: str) -> Json:
    return {
        "id": f"chatcmpl-{request.fingerprint}",
        "object": kind,
        "created": _CREATED,
        "model": request.model,
        "system_fingerprint": "fp_scripted",
    }


def _chunk(request: Request, delta: Json, finish_reason: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**_envelope(request, "chat.completion.chunk"), "choices": [choice]}


def _deltas(request: Request, message: Message) -> Iterator[Json]:
    yield {"role": "assistant", "content": None if message.content is None else "", "refusal": None}
    for piece in _pieces(message.content or ""):
        yield {"content": piece}
    for index, call in enumerate(_calls(request, message)):
        arguments = call["function"]["arguments"]
        call["function"]["arguments"] = ""
        yield {"tool_calls": [{"index": index, **call}]}
        for piece in _pieces(arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str) -> list[str]:
    size = max(1, math.ceil(len(text) / 4))
    return [text[at : at + size] for at in range(0, len(text), size)]


def _calls(request: Request, message: Message) -> list[Json]:
    return [
        {
            "id": call.id or f"call_{digest(f'{request.fingerprint}/{index}')}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for index, call in enumerate(message.calls)
    ]


def _words(value: Any) -> int:
    """How many words a text, or any other JSON value written out, has."""
    if value is None:
        return 0
    return len((value if isinstance(value, str) else json.dumps(value)).split())


def _base64(vector: Sequence[float]) -> str:
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
