"""docs/notebooks.md: its blocks as the cells of one notebook, whose kernel is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crewai_dbos.testing import ModelServer, Reply, Request, hang, text
from pages.blocks import blocks
from support.python import Program, python

pytestmark = pytest.mark.crash

KERNEL = """
import ast, asyncio, inspect, json, sys, types

loop = asyncio.new_event_loop()

async def cell(source):
    code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(code, vars(sys.modules["__main__"]))()
    if inspect.iscoroutine(result):
        await result

for source in json.load(open("cells.json")):
    loop.run_until_complete(cell(source))
"""
"""What a kernel does with cells: `__main__` has no file, and each is run where a loop runs."""

SYNC = """
from crewai_dbos.errors import EventLoopError
try:
    research.kickoff({"topic": "otters"})
except EventLoopError as error:
    assert "kickoff_async" in str(error)
print("refused")
"""


def test_the_cells(tmp_path: Path) -> None:
    definitions, launch, first, begin, look = blocks("docs/notebooks.md")
    held = hang(text("Held."))

    def model(request: Request) -> Reply:
        if "Write it" in request.last_user_text:
            return held
        return text("Swimming.")

    def cells(*sources: str) -> None:
        (tmp_path / "cells.json").write_text(json.dumps(sources))

    with ModelServer(model) as server:
        env = {**os.environ, "HOME": str(tmp_path), **server.env}
        cells(definitions, launch, first)
        kernel = Program("-c", KERNEL, folder=tmp_path, env=env)
        held.wait_until_held(timeout=60)
        kernel.kill()
        kernel.communicate(timeout=60)
        held.release()
        before = len(server.requests)

        # Restarted, the launch before the definitions; all cells, those of the definitions twice.
        imports = definitions.partition("\nwriter")[0]
        cells(imports, launch, definitions, definitions, SYNC, first, first, begin, look)
        done = python("-c", KERNEL, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "'research' is defined anew" in done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "refused"
    assert said.count("Held.") == 3
    assert any(line.startswith("otters done ") for line in said)
    assert len(server.requests) - before == 1 + 2, "the call in flight, and another run's"
