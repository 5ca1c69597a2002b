"""`make crewai-tests` says how crewAI's own tests end differently, and what its page leaves out."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "crewai-tests.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "crewai_tests_script", ROOT / "scripts" / "crewai_tests" / "__main__.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_test_on_the_page_is_read(script: ModuleType) -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("- ")]
    assert len(script.listed()) == len(lines) > 0
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        reason, _, tests = section.partition("\n- ")
        assert reason.count("\n") > 2, f"no reason: {section}"
        assert tests, f"no tests: {section}"


@pytest.mark.parametrize(
    ("plain", "durable", "said", "may"),
    [
        ({"a": "passed", "b": "passed"}, {"a": "failed", "b": "passed"}, "", True),
        ({"a[1]": "passed", "a[2]": "passed"}, {"a[1]": "failed", "a[2]": "passed"}, "", True),
        ({"a": "failed", "b": "failed"}, {"a": "passed", "b": "failed"}, "", True),
        ({"b": "passed"}, {"b": "failed"}, "fails durable, and is not in page.md: tests/b", False),
        ({"b": "passed"}, {}, "fails durable, and is not in page.md: tests/b", False),
        ({"a": "passed"}, {"a": "passed"}, "passes durable, and is in page.md: tests/a", False),
    ],
)
def test_what_is_compared(
    plain: dict[str, str],
    durable: dict[str, str],
    said: str,
    may: bool,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Of one test:\n\n- `tests/t.py::a`\n")
    monkeypatch.setattr(script, "PAGE", page)
    first, second = ({f"tests/t.py::{k}": v for k, v in of.items()} for of in (plain, durable))
    assert script.compare(first, second) is may
    assert said.replace("tests/", "tests/t.py::") in capsys.readouterr().out
