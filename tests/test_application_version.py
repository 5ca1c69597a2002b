"""A run that an earlier release began is recovered: DBOS sees no other application in this one.

DBOS recovers a run in processes of the application version it was started under, and that is a
hash of the source of every registered workflow, ours too.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

EMPTY_APPLICATION = """
import crewai_dbos
from dbos._dbos import _get_or_create_dbos_registry
from dbos._utils import GlobalParams

GlobalParams.dbos_version = "3.4.0"  # it is hashed as well
print(_get_or_create_dbos_registry().compute_app_version("app"))
"""

SINCE_0_2_0 = "e015baec07e3280d74a1098e07a7afd7"


@pytest.mark.crash
def test_the_application_version_is_that_of_earlier_releases() -> None:
    command = [sys.executable, "-c", EMPTY_APPLICATION]
    version = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert version.stdout.split() == [SINCE_0_2_0]
