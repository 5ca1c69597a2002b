"""`make pytest ARGS=--cpu` says what tests cost, with what they start."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support.python import python

pytestmark = pytest.mark.crash

TESTS = """
import subprocess
import sys


def test_nothing():
    pass


def test_a_child():
    burn = "import time\\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_a_test_costs_with_its_children(workers: str, tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(TESTS)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent)])}
    options = ("-p", "no:cacheprovider", "-p", "support.cpu", "-p", "xdist", "-n", workers)
    done = python("-m", "pytest", *options, "--cpu", folder=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    costs = re.findall(r"^ +([\d.]+)  (test_own\.py\S*)$", done.stdout, re.MULTILINE)
    found = {name: float(seconds) for seconds, name in costs}
    assert found["test_own.py::test_nothing"] < 0.4 < found["test_own.py::test_a_child"]
    assert found["test_own.py"] >= found["test_own.py::test_a_child"]
