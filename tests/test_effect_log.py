"""The log of effects that a test's tools report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crewai_dbos.testing import EffectLog, report_effect


class TestEffectLog:
    def test_reads_and_counts(self, tmp_path: Path) -> None:
        log = EffectLog(tmp_path / "log")
        assert log.read() == []
        log.report("email", to="a@x", kind="html")
        log.report("email", to="b@x")
        assert log.count("email") == 2
        assert log.count("email", to="a@x", kind="html") == 1
        assert log.count("email", to="c@x") == 0
        assert log.count("sms") == 0
        assert log.read()[0].pid == os.getpid()

    @pytest.mark.crash
    def test_several_processes_killed_while_reporting(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        package = str(Path(__file__).parents[1] / "src" / "crewai_dbos" / "testing" / "effects.py")
        program = (
            "import importlib.util as u, sys;"
            "s = u.spec_from_file_location('effects', sys.argv[1]); m = u.module_from_spec(s);"
            " sys.modules['effects'] = m; s.loader.exec_module(m);"
            "log = m.EffectLog(sys.argv[2]); n = 0\n"
            "while True: log.report('tick', n=n, pad='x' * 500); n += 1"
        )
        children = [
            subprocess.Popen([sys.executable, "-c", program, package, str(path)]) for _ in range(3)
        ]
        log = EffectLog(path)
        deadline = time.monotonic() + 20
        while len({effect.pid for effect in log.read()}) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        for child in children:
            child.kill()
            child.wait()
        effects = log.read()
        for child in children:
            ticks = [effect.fields["n"] for effect in effects if effect.pid == child.pid]
            assert ticks == list(range(len(ticks)))
            assert ticks
        assert log.count("tick") == len(effects)


@pytest.mark.crash
def test_the_fixture_counts_what_processes_report_and_elsewhere_nothing_is_written(
    effect_log: EffectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "from crewai_dbos.testing import report_effect; report_effect('email', to='ann')"
    subprocess.run([sys.executable, "-c", program], check=True)
    report_effect("email", to="bob")
    assert effect_log.count("email") == 2
    assert effect_log.count("email", to="ann") == 1
    monkeypatch.delenv("CREWAI_DBOS_EFFECTS")
    report_effect("email", to="eve")
    assert effect_log.count("email") == 2
