"""What the plugin costs a pytest that has no crash test, and what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.python import python

pytestmark = pytest.mark.crash

CONFTEST = """
import sys

def pytest_sessionfinish(session):
    assert session.config.pluginmanager.hasplugin("crewai-dbos")
    names = ("crewai_dbos", "crewai", "dbos", "sqlalchemy", "starlette", "uvicorn", "httpx")
    loaded = [name for name in names if name in sys.modules]
    print("loaded:", *loaded)
"""


def pytest_in(folder: Path) -> str:
    """What pytest prints in a new interpreter, with the plugins that are installed."""
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_without_a_crash_test_imports_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_own.py").write_text("def test_own(tmp_path):\n    assert tmp_path\n")
    assert "loaded:\n" in pytest_in(tmp_path)


def test_a_log_of_effects_does_not_import_crewai(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_own.py").write_text(
        "from crewai_dbos.testing import report_effect\n\n"
        "def test_own(effect_log):\n"
        "    report_effect('email', to='ann')\n"
        "    assert effect_log.count('email', to='ann') == 1\n"
    )
    output = pytest_in(tmp_path)
    (loaded,) = (line for line in output.splitlines() if "loaded:" in line)
    assert "crewai_dbos" in loaded.split()
    assert "crewai" not in loaded.split()


def test_pytest_describes_the_mark_and_the_fixtures(tmp_path: Path) -> None:
    markers, fixtures = (
        python("-m", "pytest", "-p", "no:cacheprovider", f"--{what}", folder=tmp_path).stdout
        for what in ("markers", "fixtures")
    )
    assert "@pytest.mark.crash_matrix(target, inputs, *, model, " in markers
    assert "What became of the run that was killed at this test's position." in fixtures
    assert "Counts what `report_effect` is told" in fixtures
    for name in ("crash_run", "effect_log"):
        assert f"\n{name} -- " in fixtures
