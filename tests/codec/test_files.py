"""Files are stored as where they come from."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from crewai_files import File, FileUrl, ImageFile, TextFile

from codec.values import back, stored


def test_what_was_read_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a secret of the file")
    file = TextFile(source=path)
    before = stored(file)
    assert file.read_text() == "a secret of the file"
    assert stored(file) == before
    assert file.source._content == b"a secret of the file"
    again = back(file)
    assert (type(again), again.filename, again.content_type) == (
        TextFile,
        "notes.txt",
        "text/plain",
    )
    path.write_text("changed")
    assert again.read_text() == "changed"


@pytest.mark.parametrize("source", [b"in it", BytesIO(b"in it")], ids=["bytes", "stream"])
def test_what_has_no_place_is_stored_as_it_is(source: object) -> None:
    again = back(File(source=source))
    assert again.read() == b"in it"
    assert again.content_type == "text/plain"


def test_an_address_is_stored_as_one() -> None:
    again = back(ImageFile(source="https://example.com/otter.png"))
    assert again.source == FileUrl(url="https://example.com/otter.png")
    assert again.content_type == "image/png"
