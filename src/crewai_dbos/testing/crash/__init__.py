"""Proof that a definition survives: its run is killed everywhere, for real, and compared.

Extra: ``pip install 'crewai-dbos[testing]'``.
"""

from crewai_dbos.testing.crash.crash_test import CrashTest
from crewai_dbos.testing.crash.errors import CrashTestError
from crewai_dbos.testing.crash.positions import Position
from crewai_dbos.testing.crash.verdict import Observed, Verdict

__all__ = ["CrashTest", "CrashTestError", "Observed", "Position", "Verdict"]
