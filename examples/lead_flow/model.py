"""Stands in for the model in a crash test, so that every run takes the same way."""

from __future__ import annotations

import re

from crewai_dbos.testing import Reply, Request, structured, text


def answer(request: Request) -> Reply:
    asked = str(request.messages)
    if request.schema_name:
        name = re.findall(r"(Ada|Ben|Cleo)", asked)[0]
        fits = {"Ada": 90, "Ben": 10, "Cleo": 70}[name]
        return structured({"score": fits, "reason": f"{name} is what we look for."})
    if found := re.search(r"Write to (\w+), .* At most (\d+) words", asked):
        name, words = found[1], int(found[2])
        return text(f"Dear {name}, " + "word " * (words if name == "Ada" else words - 2))
    return text("It fits.")
