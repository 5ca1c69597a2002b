"""What is stored of one call: plain JSON, made when the call has ended.

``{"v": 2, "kind": "llm", "model": "gpt-4o-mini", "seconds": 0.4, "request": {"messages": "9f..."},
"salt": "5c...", "extra": {"usage": [...]}, "result": ...}``, or ``error`` in place of ``result``.
Where the application has a serializer of its own, what is in the content goes through it:
``request``, ``salt``, ``result`` or ``error``, and ``extra`` less the token counts, as ``sealed``;
that it is an error ``failed`` says. ``attempts`` is there where it took more than one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from dbos import Serializer

from crewai_dbos._journal.call import Call
from crewai_dbos._secrets import known
from crewai_dbos._stored import codec, names, redaction, sealing
from crewai_dbos._stored.digest import salted
from crewai_dbos._stored.errors import encode_error
from crewai_dbos._stored.redaction import Redact
from crewai_dbos._stored.usage import known as known_counts
from crewai_dbos.errors import UnstorableValueError

logger = logging.getLogger("crewai_dbos")

Payload = dict[str, Any]

_CONTENT = ("request", "salt", "extra", "result", "error")
_IN_THE_CLEAR = "usage"
"""Of ``extra``: numbers only, and of a sealed entry only under names that crewAI has for them."""

MOST_IDS = 16
"""Step ids that one operation of DBOS needs; it is two at most today."""

_TYPES = {
    "kind": str,
    "request": dict,
    "ids": int,
    "attempts": int,
    "failed": bool,
    "error": dict,
    "extra": dict,
    "salt": str,
    "sealed": dict,
}


def is_payload(stored: Any) -> bool:
    """Whether `stored` has the form of a payload, sealed or not, of a version that can be read."""
    if not isinstance(stored, dict) or stored.get("v") not in names.ENTRY_VERSIONS:
        return False
    if "kind" not in stored:
        return False
    for name, item in stored.items():  # there is one for each entry that is replayed
        if name in _TYPES and type(item) is not _TYPES[name]:
            return False
    if not 0 <= stored.get("ids", 0) <= MOST_IDS:
        return False
    return ("result" in stored) + ("error" in stored) + ("sealed" in stored) == 1


Used = Sequence[tuple[str, Mapping[str, Any]]]
"""What LLMs have told in a call whose requests are not recorded on their own; see `OpenCall`."""


def success(call: Call, value: Any, *, seconds: float = 0.0, used: Used = ()) -> Payload:
    """The payload of a call that returned `value`; of a failed one if that can't be stored.

    Whatever `value` is, there is a payload: a call that has been made is recorded.
    """
    try:
        head = _head(call, seconds, used)
    except Exception as error:  # raised past here, the call would be made again
        return failure(replace(call, collect=None), error, seconds=seconds, used=used)
    try:
        result = _encoded(call, value)
    except Exception as error:  # raised past here, the call would be made again
        if call.as_text is None:
            return failure(call, error, seconds=seconds, used=used)
        try:
            result = codec.encode(call.as_text(value))
        except Exception as why:  # of the user's class: without a text the model can't see it
            return failure(call, why, seconds=seconds, used=used)
        logger.warning(
            "%s returned %s, which has no JSON form. It is recorded as the text that the model "
            "sees, and who called it gets that text. Return plain data or a pydantic model to keep "
            "the value.",
            names.without_digest(names.stored_name(call.what, names.ENTRY_VERSION)),
            type(value).__qualname__,
        )
    return {**head, "result": result}


def failure(
    call: Call,
    error: BaseException,
    *,
    seconds: float = 0.0,
    secrets: Iterable[str] = (),
    used: Used = (),
) -> Payload:
    """The payload of a call that raised `error`; `secrets`, and the call's own, are cut out."""
    hidden = {*call.secrets, *secrets, *known.named()}
    return {**_head(call, seconds, used), "error": encode_error(error, hidden)}


def pin(call: Call, ids: int) -> Payload:
    """The payload that keeps the `ids` step ids after its own for an operation of DBOS."""
    return {**_head(call, 0.0), "result": None, "ids": ids}


def _head(call: Call, seconds: float, used: Used = ()) -> Payload:
    head: Payload = {"v": names.ENTRY_VERSION, "kind": call.kind}
    if call.model is not None:
        head["model"] = known.hide(call.model)
    if call.concurrent:
        head["concurrent"] = True
    if call.background:
        head["background"] = True
    if seconds:
        head["seconds"] = round(seconds, 4)
    if call.digests:
        salt = token_hex(8)
        head["request"] = {name: salted(digest, salt) for name, digest in call.digests.items()}
        head["salt"] = salt
    extra = {} if call.collect is None else call.collect()
    if used:
        head["models"] = [known.hide(model) for model, _ in used]
        extra = {**extra, _IN_THE_CLEAR: [usage for _, usage in used]}
    if extra:
        head["extra"] = _encoded(call, _with_numbers_only(extra))
    return head


def _encoded(call: Call, value: Any) -> codec.Json:
    try:
        return codec.encode(value, call.known)
    except UnstorableValueError:
        if call.as_data is None:
            raise
        return codec.encode(call.as_data(value, call.known), call.known)


def _with_numbers_only(extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` with nothing but numbers in what stays in the clear, whatever a server has sent."""
    if _IN_THE_CLEAR not in extra:
        return dict(extra)
    return {**extra, _IN_THE_CLEAR: [_numbers(usage) for usage in extra[_IN_THE_CLEAR]]}


def _numbers(usage: Mapping[str, Any]) -> dict[str, Any]:
    inside = {name: _numbers(item) for name, item in usage.items() if isinstance(item, Mapping)}
    numbers = {name: item for name, item in usage.items() if type(item) in (int, float)}
    return {**numbers, **inside}


def redacted(payload: Payload, redact: Iterable[Redact]) -> Payload:
    """`payload` with what each of `redact` makes of the texts in it."""
    for function in redact:
        extra = payload.get("extra", {})
        state = {name: item for name, item in extra.items() if name != _IN_THE_CLEAR}
        if "result" in payload:
            payload = {**payload, "result": redaction.redacted(payload["result"], function)}
        else:
            payload = {**payload, "error": redaction.redacted_error(payload["error"], function)}
        if state:
            payload["extra"] = {**extra, **redaction.redacted(state, function)}
    return payload


def sealed(payload: Payload, key_id: str | None, serializer: Serializer | None = None) -> Payload:
    """`payload` as it is written, with the id of the key of digests in names.

    Args:
        serializer: That of an application whose DBOS instance is in another process.
    """
    seals = serializer is not None or sealing.is_wanted()
    if key_id is None and not seals:
        return payload
    content = {name: payload[name] for name in _CONTENT if name in payload}
    clear = {name: item for name, item in payload.items() if name not in _CONTENT}
    if key_id is not None:
        clear["key"] = key_id
    if not seals:
        return {**clear, **content}
    if _IN_THE_CLEAR in (extra := content.get("extra", {})):
        counts = [known_counts(usage) for usage in extra[_IN_THE_CLEAR]]
        clear["extra"] = {_IN_THE_CLEAR: counts}
        if counts == extra[_IN_THE_CLEAR]:
            extra = {name: item for name, item in extra.items() if name != _IN_THE_CLEAR}
        content["extra"] = extra
    if "error" in content:
        clear["failed"] = True
    return {**clear, "sealed": sealing.seal(content, serializer)}


def opened(stored: Payload, serializer: Serializer | None = None) -> Payload:
    """The reverse of `sealed`.

    Args:
        serializer: As of `sealed`.

    Raises:
        SealedError: It was sealed by another serializer, or with a key that is not here.
    """
    if "sealed" not in stored:
        return stored
    content = sealing.opened(stored["sealed"], serializer)
    if not isinstance(content, Mapping):
        return {}
    clear = {name: item for name, item in stored.items() if name != "sealed"}
    merged = {**clear, **content}
    if isinstance(extra := content.get("extra"), Mapping):
        merged["extra"] = {**clear.get("extra", {}), **extra}
    return merged
