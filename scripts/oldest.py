"""Print constraints.txt with the oldest crewAI and DBOS that pyproject.toml allows.

usage: python scripts/oldest.py
"""

import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
lowest = dict(re.findall(r'"(crewai|dbos)>=([\d.]+)', (root / "pyproject.toml").read_text()))

print("# Written by `make oldest`.")
for line in (root / "constraints.txt").read_text().splitlines():
    # The parts of crewAI are released with it.
    if not line.startswith(("#", "crewai-", *(f"{package}==" for package in lowest))):
        print(line)
for package, version in lowest.items():
    print(f"{package}=={version}")
