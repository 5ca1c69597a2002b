"""The protocols of the providers, as far as crewAI speaks them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from crewai_dbos.testing.replies import ApiError, Message, ToolCall
from providers.server import Asked, sse

USED = {"prompt": 100, "cached": 30, "completion": 20, "reasoning": 7}
"""Tokens of every answer: of the prompt's some were cached, of the answer's some were thoughts."""

_TOTAL = USED["prompt"] + USED["completion"]
_JSON, _EVENTS = "application/json", "text/event-stream"


def _ids(asked: Asked, calls: Iterable[ToolCall], prefix: str) -> list[tuple[str, ToolCall]]:
    """The calls with ids that depend on what was asked only."""
    return [(f"{prefix}_{asked.turns}_{number}", call) for number, call in enumerate(calls)]


def _arguments(call: ToolCall) -> Any:
    return json.loads(call.arguments_json)


def _dumped(body: Mapping[str, Any]) -> list[bytes]:
    return [json.dumps(body).encode()]


def _in_two(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


class AzureWire:
    """Azure AI inference: OpenAI's chat protocol, read by a client of Microsoft's."""

    name = "azure"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        messages = body["messages"]
        return Asked(
            path,
            body,
            turns=sum(message["role"] == "assistant" for message in messages),
            results=[str(message["content"]) for message in messages if message["role"] == "tool"],
            wants="response_format" in body or isinstance(body.get("tool_choice"), dict),
            stream=bool(body.get("stream")),
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        made, content = message.calls, message.content
        if content is not None and isinstance(asked.body.get("tool_choice"), dict):
            name = asked.body["tool_choice"]["function"]["name"]
            made, content = (ToolCall(name, content),), None
        calls = [
            {
                "index": number,
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for number, (call_id, call) in enumerate(_ids(asked, made, "call"))
        ]
        usage = {
            "prompt_tokens": USED["prompt"],
            "completion_tokens": USED["completion"],
            "total_tokens": _TOTAL,
            "prompt_tokens_details": {"cached_tokens": USED["cached"]},
            "completion_tokens_details": {"reasoning_tokens": USED["reasoning"]},
        }
        said: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            said["tool_calls"] = calls
        head = {"id": "chat-1", "created": 1, "model": "gpt-4o-mini"}
        finish = "tool_calls" if calls else "stop"
        if not asked.stream:
            choice = {"index": 0, "finish_reason": finish, "message": said}
            return _JSON, _dumped({**head, "choices": [choice], "usage": usage})
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": half} for half in _in_two(content or "") if half]
        deltas += [{"content": "", "tool_calls": [call]} for call in calls]
        events = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            for delta in deltas
        ]
        end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        return _EVENTS, sse(*events, end, {**head, "choices": [], "usage": usage}, done=True)

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        return {}, {"error": {"code": error.code, "message": error.message, "type": error.type}}


class ResponsesWire:
    """OpenAI's Responses."""

    name = "responses"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        items = body["input"] if isinstance(body["input"], list) else []
        outputs = [item for item in items if item.get("type") == "function_call_output"]
        answered = [item for item in items if item.get("role") == "assistant" or "call_id" in item]
        return Asked(
            path,
            body,
            turns=len({str(item.get("call_id", item)).rpartition("_")[0] for item in answered}),
            results=[str(item["output"]) for item in outputs],
            wants="text" in body,
            stream=bool(body.get("stream")),
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        thought = {
            "type": "reasoning",
            "id": f"rs_{asked.turns}",
            "summary": [],
            "encrypted_content": "opaque",
        }
        output: list[dict[str, Any]] = [thought]
        for call_id, call in _ids(asked, message.calls, "call"):
            arguments = {"name": call.name, "arguments": call.arguments_json}
            item = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, **arguments}
            output.append({**item, "status": "completed"})
        if message.content is not None:
            text = {"type": "output_text", "text": message.content, "annotations": []}
            head = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
            output.append({**head, "content": [text]})
        response = {
            "id": f"resp_{asked.turns}_{len(asked.text)}",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": asked.body["model"],
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": USED["prompt"],
                "output_tokens": USED["completion"],
                "total_tokens": _TOTAL,
                "input_tokens_details": {"cached_tokens": USED["cached"]},
                "output_tokens_details": {"reasoning_tokens": USED["reasoning"]},
            },
        }
        if not asked.stream:
            return _JSON, _dumped(response)
        events: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
        where = {"item_id": "msg_1", "content_index": 0, "logprobs": []}
        for number, item in enumerate(output):
            if item["type"] == "message":
                events += [
                    {"type": "response.output_text.delta", "output_index": number, **where,
                     "delta": half}
                    for half in _in_two(message.content or "")
                ]  # fmt: skip
            done = {"type": "response.output_item.done", "output_index": number, "item": item}
            events.append(done)
        events.append({"type": "response.completed", "response": response})
        numbered = [{**event, "sequence_number": n} for n, event in enumerate(events)]
        return _EVENTS, sse(*numbered, named=True)

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        return {}, {"error": {"code": error.code, "message": error.message, "type": error.type}}


class AnthropicWire:
    """Anthropic's messages, with thoughts that are signed."""

    name = "anthropic"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        blocks = [
            block
            for message in body["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
        ]
        found = [block["content"] for block in blocks if block["type"] == "tool_result"]
        return Asked(
            path,
            body,
            turns=sum(message["role"] == "assistant" for message in body["messages"]),
            results=[str(result) for result in found],
            wants=body.get("tool_choice", {}).get("type") == "tool" or "output_format" in body,
            stream=bool(body.get("stream")),
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        calls = _ids(asked, message.calls, "toolu")
        content = message.content
        if content is not None and asked.body.get("tool_choice", {}).get("type") == "tool":
            calls = [("toolu_object", ToolCall(asked.body["tool_choice"]["name"], content))]
            content = None
        blocks: list[dict[str, Any]] = []
        if "thinking" in asked.body:
            signature = f"signed-{asked.turns}"
            blocks.append({"type": "thinking", "thinking": "Hm.", "signature": signature})
        if content is not None:
            blocks.append({"type": "text", "text": content})
        blocks += [
            {"type": "tool_use", "id": call_id, "name": call.name, "input": _arguments(call)}
            for call_id, call in calls
        ]
        usage = {
            "input_tokens": USED["prompt"] - USED["cached"],
            "output_tokens": USED["completion"],
            "cache_read_input_tokens": USED["cached"],
            "cache_creation_input_tokens": 0,
        }
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude"}
        stop = "tool_use" if calls else "end_turn"
        if not asked.stream:
            end = {"stop_reason": stop, "stop_sequence": None, "usage": usage}
            return _JSON, _dumped({**head, "content": blocks, **end})
        begin = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": begin}]
        for index, block in enumerate(blocks):
            empty, deltas = self._in_pieces(block)
            events.append({"type": "content_block_start", "index": index, "content_block": empty})
            events += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": stop, "stop_sequence": None}
        used = {"output_tokens": USED["completion"]}
        events.append({"type": "message_delta", "delta": delta, "usage": used})
        return _EVENTS, sse(*events, {"type": "message_stop"}, named=True)

    def _in_pieces(self, block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if block["type"] == "thinking":
            thought = {"type": "thinking_delta", "thinking": block["thinking"]}
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [thought, signed]
        if block["type"] == "text":
            halves = [{"type": "text_delta", "text": half} for half in _in_two(block["text"])]
            return {"type": "text", "text": ""}, halves
        halves = [
            {"type": "input_json_delta", "partial_json": half}
            for half in _in_two(json.dumps(block["input"]))
        ]
        return {**block, "input": {}}, halves

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        return {}, {"type": "error", "error": {"type": error.type, "message": error.message}}


class GeminiWire:
    """Google's generateContent."""

    name = "gemini"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        parts = [part for content in body["contents"] for part in content["parts"]]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        return Asked(
            path,
            body,
            turns=sum(content["role"] == "model" for content in body["contents"]),
            results=[str(answer["response"]) for answer in answers],
            wants="responseMimeType" in body.get("generationConfig", {}),
            stream="streamGenerateContent" in path,
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        parts: list[dict[str, Any]] = [{"text": "Hm.", "thought": True}]
        if message.content is not None and asked.stream:
            parts += [{"text": half} for half in _in_two(message.content)]
        elif message.content is not None:
            parts.append({"text": message.content})
        parts += [
            {
                "functionCall": {"name": call.name, "args": _arguments(call)},
                "thoughtSignature": "c2lnbmVk",
            }
            for call in message.calls
        ]
        usage = {
            "promptTokenCount": USED["prompt"],
            "candidatesTokenCount": USED["completion"] - USED["reasoning"],
            "thoughtsTokenCount": USED["reasoning"],
            "cachedContentTokenCount": USED["cached"],
            "totalTokenCount": _TOTAL,
        }

        def chunk(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
            candidate = {"index": 0, "content": {"role": "model", "parts": parts}, **more}
            return {"responseId": "r1", "modelVersion": "gemini", "candidates": [candidate]}

        if not asked.stream:
            return _JSON, _dumped({**chunk(parts, finishReason="STOP"), "usageMetadata": usage})
        events = [chunk([part]) for part in parts]
        events[-1] = {**chunk([parts[-1]], finishReason="STOP"), "usageMetadata": usage}
        return _EVENTS, sse(*events)

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        status = {429: "RESOURCE_EXHAUSTED", 401: "UNAUTHENTICATED"}.get(error.status, "INTERNAL")
        return {}, {"error": {"code": error.status, "message": error.message, "status": status}}


_OF_STATUS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class BedrockWire:
    """Amazon Bedrock's Converse, whose streams are frames of their own kind."""

    name = "bedrock"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        blocks = [block for message in body["messages"] for block in message["content"]]
        results = [block["toolResult"]["content"] for block in blocks if "toolResult" in block]
        tools = body.get("toolConfig", {})
        return Asked(
            path,
            body,
            turns=sum(message["role"] == "assistant" for message in body["messages"]),
            results=[str(result) for result in results],
            wants="toolChoice" in tools,
            stream=path.endswith("converse-stream"),
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        calls = _ids(asked, message.calls, "tooluse")
        content = message.content
        if content is not None and asked.wants:
            name = asked.body["toolConfig"]["toolChoice"]["tool"]["name"]
            calls, content = [("tooluse_object", ToolCall(name, content))], None
        usage = {
            "inputTokens": USED["prompt"],
            "outputTokens": USED["completion"],
            "totalTokens": _TOTAL,
            "cacheReadInputTokens": USED["cached"],
        }
        stop = "tool_use" if calls else "end_turn"
        blocks: list[dict[str, Any]] = [{"text": content}] if content is not None else []
        blocks += [
            {"toolUse": {"toolUseId": call_id, "name": call.name, "input": _arguments(call)}}
            for call_id, call in calls
        ]
        if not asked.stream:
            said = {"message": {"role": "assistant", "content": blocks}}
            end = {"stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}
            return _JSON, _dumped({"output": said, **end})
        frames = [_frame("messageStart", {"role": "assistant"})]
        for index, block in enumerate(blocks):
            where = {"contentBlockIndex": index}
            if "toolUse" in block:
                use = block["toolUse"]
                start = {"toolUseId": use["toolUseId"], "name": use["name"]}
                frames.append(_frame("contentBlockStart", {"start": {"toolUse": start}, **where}))
                deltas: list[Any] = [
                    {"toolUse": {"input": half}} for half in _in_two(json.dumps(use["input"]))
                ]
            else:
                deltas = [{"text": half} for half in _in_two(block["text"])]
            frames += [_frame("contentBlockDelta", {"delta": delta, **where}) for delta in deltas]
            frames.append(_frame("contentBlockStop", where))
        frames.append(_frame("messageStop", {"stopReason": stop}))
        frames.append(_frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}))
        return "application/vnd.amazon.eventstream", frames

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        name = error.code or _OF_STATUS.get(error.status, "InternalServerException")
        return {"x-amzn-errortype": name}, {"message": error.message}


def _frame(kind: str, payload: Mapping[str, Any]) -> bytes:
    """An event of Amazon's event stream: lengths, headers and payload, with checksums."""
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(text)) + text.encode()
        for name, text in (
            (":event-type", kind),
            (":content-type", "application/json"),
            (":message-type", "event"),
        )
    )
    body = json.dumps(payload).encode()
    lengths = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    prelude = lengths + struct.pack(">I", zlib.crc32(lengths))
    frame = prelude + headers + body
    return frame + struct.pack(">I", zlib.crc32(frame))


class OwnWire:
    """What nobody else speaks, for an LLM class of the user's: its calls have no ids."""

    name = "own"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        messages = body["messages"]
        return Asked(
            path,
            body,
            turns=sum(message["role"] == "assistant" for message in messages),
            results=[str(message["content"]) for message in messages if message["role"] == "tool"],
            wants=bool(body["wants"]),
        )

    def answer(self, asked: Asked, message: Message) -> tuple[str, list[bytes]]:
        calls = [{"name": call.name, "input": _arguments(call)} for call in message.calls]
        usage = {"prompt_tokens": USED["prompt"], "completion_tokens": USED["completion"]}
        return _JSON, _dumped({"text": message.content, "calls": calls, "usage": usage})

    def error(self, error: ApiError) -> tuple[dict[str, str], Mapping[str, Any]]:
        return {}, {"message": error.message}
