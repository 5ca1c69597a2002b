"""Errors, and how they are stored."""

from __future__ import annotations

import json
from typing import Any

import httpx

from crewai_dbos._stored.errors import decode_error, encode_error

REQUEST = httpx.Request("POST", "https://api.openai.com/v1/chat/completions")


def response(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, request=REQUEST, headers=headers)


def stored_error(error: BaseException, *secrets: str) -> str:
    text = json.dumps(encode_error(error, secrets), allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    return text


def error_back(error: BaseException, *secrets: str) -> Any:
    return decode_error(json.loads(stored_error(error, *secrets)))


class Demanding(Exception):
    """Can't be built from its message."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
