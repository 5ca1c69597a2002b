"""What an error carries is cut too, and can be read back as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import AnyUrl

from codec.values import Point
from crewai_dbos._stored.errors import decode_error, encode_error
from secrecy.forms import FORMS

SECRET = "Q7w03f2a1c9d8e7Zp"
ID = UUID("12345678-9abc-4def-8123-456789abcdef")


class Carrying(Exception):
    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args)
        self.__dict__.update(attributes)

    def __str__(self) -> str:
        return f"carrying {self.args[0]}"


def through(error: Exception, *secrets: str) -> tuple[str, Any]:
    """What is stored of it, and what comes back."""
    stored = json.dumps(encode_error(error, secrets))
    return stored, decode_error(json.loads(stored))


@pytest.mark.parametrize("form", FORMS)
def test_arguments_attributes_and_causes(form: str) -> None:
    written = FORMS[form](SECRET)
    error = Carrying(
        written,
        {written: [written, (written, {written})]},
        body={"error": {"message": f"no {written}"}},
    )
    error.__cause__ = ValueError(written)
    stored, back = through(error, SECRET)
    assert written not in stored
    assert json.dumps(written)[1:-1] not in stored
    assert type(back) is Carrying
    assert isinstance(back.__cause__, ValueError)
    assert isinstance(back.args[1], dict)
    assert back.body["error"]["message"].startswith("no ")


def test_values_that_are_stored_otherwise() -> None:
    error = Carrying(
        "failed",
        data=f"in bytes: {SECRET}".encode() + b"\xff\x00",
        odd=f"\udc80 {SECRET}",
        path=Path("/srv") / SECRET / "file",
        url=AnyUrl(f"https://me:{SECRET}@shop.test/x?key={SECRET}"),
        id=ID,
        other_id=UUID(int=7),
        pairs={1: SECRET, (2, 3): "kept"},
        point=Point(1, 2),
        number=10**5000,
        nothing=None,
    )
    stored, back = through(error, SECRET, str(ID))
    assert [text for text in (SECRET, str(ID), "UTd3") if text in stored] == []
    assert type(back) is Carrying
    assert back.data == b"in bytes: ***\xff\x00"
    assert back.odd == "\udc80 ***"
    assert str(back.path) == "/srv/***/file"
    assert str(back.url) == "https://me:***@shop.test/x?key=***"
    assert (back.id, back.other_id) == ("***", UUID(int=7))
    assert back.pairs == {1: "***", (2, 3): "kept"}
    assert back.point == Point(1, 2)
    assert back.number == 10**5000


def test_bytes_without_a_secret_stay_as_they_are() -> None:
    data = bytes(range(256))
    assert through(Carrying("failed", data=data), SECRET)[1].data == data
