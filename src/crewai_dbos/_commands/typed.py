"""What people type as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def as_json(text: str, what: str) -> Any:
    """What `text` stands for.

    Args:
        text: JSON.
        what: What it is, for the error that ends the command.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise refused(f"{what} is not JSON: {error}") from None


def as_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object that `text` is, or that is in the file which ``@FILE`` names."""
    if text.startswith("@"):
        text, what = content(Path(text[1:]), what), text[1:]
    found = as_json(text, what)
    if not isinstance(found, dict):
        raise refused(f"{what} is no JSON object.")
    return found


def content(file: Path, what: str) -> str:
    """The text in `file`."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise refused(f"{what}: {file} can't be read: {error}") from None


def refused(message: str) -> typer.Exit:
    """The end of a command that was not called as it can be, which has been said."""
    typer.echo(message, err=True)
    return typer.Exit(2)
