"""Print constraints.txt: what pip would install now for each Python, merged with markers.

usage: python scripts/constraints.py 3.10 3.11 ...
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

EXTRAS = "dev,docs,local-model,providers"
root = Path(__file__).resolve().parent.parent
pythons = sys.argv[1:]
found: dict[str, dict[str, list[str]]] = {}

for version in pythons:
    python = subprocess.check_output([root / "scripts/find-python", version], text=True).strip()
    if not python:
        sys.exit(f"Python {version} not found: the constraints need every one of {pythons}")
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / "report.json"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--dry-run", "--ignore-installed", "--report", report, f"{root}[{EXTRAS}]"]
        subprocess.run(pip, check=True)
        for package in json.loads(report.read_text())["install"]:
            meta = package["metadata"]
            name = re.sub(r"[-_.]+", "-", meta["name"]).lower()
            if name != "crewai-dbos":
                found.setdefault(name, {}).setdefault(meta["version"], []).append(version)

print("# Written by `make constraints`: the versions that the tests run with.")
for name, versions in sorted(found.items()):
    for release, where in versions.items():
        bounds = []
        if len(versions) > 1 and where[0] != pythons[0]:
            bounds.append(f'python_version >= "{where[0]}"')
        if len(versions) > 1 and where[-1] != pythons[-1]:
            bounds.append(f'python_version <= "{where[-1]}"')
        print(f"{name}=={release}" + (" ; " + " and ".join(bounds) if bounds else ""))
