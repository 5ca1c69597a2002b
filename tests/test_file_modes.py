"""Files that we make are their owner's only, also where the umask would let everybody read them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import crewai_dbos
from crewai_dbos._objects.artifacts import StableArtifacts
from crewai_dbos.testing import EffectLog, ModelServer, record
from support.databases import some_here
from support.python import python


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """The mode of everything below `folder`, by path."""
    return {
        str(each.relative_to(folder)): f"{each.lstat().st_mode:o}" for each in folder.rglob("*")
    }


def readable_by_others(found: dict[str, str]) -> dict[str, str]:
    return {path: mode for path, mode in found.items() if mode not in ("100600", "40700")}


PATH = os.pathsep.join([str(Path(__file__).parent), str(Path(crewai_dbos.__file__).parents[1])])


def ran(folder: Path, *command: str, crash_tests: bool = False) -> str:
    """What a program prints that has no umask and its temporary files in `folder`."""
    done = python(
        *command,
        folder=folder,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": PATH},
        timeout=280,
        umask=0,
        crash_tests=crash_tests,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


CRASH_TEST = """
import json
import sys
import tempfile
from pathlib import Path

from crash import models
from crash.names import ASK
from crewai_dbos.testing.crash import CrashTest
from test_file_modes import modes

seen = {}


def script(request):
    seen.update(modes(Path(tempfile.gettempdir())))
    return models.ann_and_bob(request)


inputs = {"messages": ASK}
fresh = sys.argv[1] == "fresh"
with CrashTest("crash.application:native_postman", inputs, model=script, fresh=fresh) as test:
    killed = next(each for each in test.positions() if "llm#2-after" in str(each))
    if not fresh:  # of new interpreters one run has all kinds of files, and a kill costs two more
        verdict = test.run(killed)
        assert verdict.ok, verdict
    print(json.dumps(seen))
"""


@pytest.mark.crash
@pytest.mark.parametrize("how", some_here(["forked", "fresh"], ["forked"]))
def test_what_a_crash_test_makes(how: str, tmp_path: Path) -> None:
    printed = ran(tmp_path, "-c", CRASH_TEST, how, crash_tests=True)
    found = json.loads(printed.splitlines()[-1])
    names = {Path(path).name for path in found}
    assert {"events", "effects", "log"} <= names
    assert sum(name.endswith(".sqlite") for name in names) >= (3 if how == "forked" else 1)
    assert readable_by_others(found) == {}


def test_a_log_of_effects(no_umask: None, tmp_path: Path) -> None:
    EffectLog(tmp_path / "effects").report("email")
    assert modes(tmp_path) == {"effects": "100600"}


def test_a_recording_also_while_it_is_written_anew(no_umask: None, tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    # What a program left that was killed while it wrote.
    (tmp_path / "recording.json.part").write_text("half of")
    seen = []

    def script(request: object) -> str:
        seen.append(modes(tmp_path))
        return "Hello."

    with (
        ModelServer(script) as upstream,
        ModelServer(record(path, base_url=upstream.base_url, api_key="sk-test")) as server,
    ):
        client = openai.OpenAI(base_url=server.base_url, api_key="test")
        for _ in range(2):
            client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello."}]
            )
    assert seen[1] == modes(tmp_path) == {"recording.json": "100600"}
    assert len(json.loads(path.read_text())["exchanges"]) == 2


def test_large_results_of_tools(no_umask: None) -> None:
    store = StableArtifacts()
    try:
        kept = [store.store(text, 1000) for text in ("one\n" * 1000, "two\n" * 1000)]
        assert f"{store.directory.stat().st_mode:o}" == "40700"
        found = modes(store.directory)
        assert len(found) == 2 * len(kept)
        assert readable_by_others(found) == {}
        assert kept[1].file_path.read_text() == "two\n" * 1000
    finally:
        store.cleanup()
