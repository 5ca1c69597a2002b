"""Make a virtual environment of the running Python, unless it is there already.

usage: python scripts/make_venv.py DIR EXTRAS [CONSTRAINTS]

The environment holds this project (editable) with EXTRAS at the versions of CONSTRAINTS, which are
those of constraints.txt if not given. It is made anew when the Python, the extras, the constraints
or what pyproject.toml says of the project changed.
"""

import hashlib
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

root = Path(__file__).resolve().parent.parent
target, extras = root / sys.argv[1], sys.argv[2]
constraints = sys.argv[3] if len(sys.argv) > 3 else "constraints.txt"

digest = hashlib.sha256()
for part in (sys.version, sys.base_prefix, str(root), extras):
    digest.update(part.encode() + b"\0")
for name in ("pyproject.toml", constraints, "scripts/make_venv.py"):
    digest.update((root / name).read_text().partition("[tool.ruff]")[0].encode())

stamp = target / "inputs.sha256"
if not stamp.exists() or stamp.read_text() != digest.hexdigest():
    begin = time.monotonic()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"making {sys.argv[1]} (Python {version}); this takes a minute", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, with_pip=True)
    project = f"{root}[{extras}]" if extras else str(root)
    pip = [target / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Byte code is compiled on first import: most of what crewAI brings is never imported.
    pip += ["--no-compile", "--constraint", root / constraints, "--editable", project]
    result = subprocess.run(pip, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout}{result.stderr}\npip could not make {sys.argv[1]}")
    stamp.write_text(digest.hexdigest())
    print(f"made {sys.argv[1]} in {time.monotonic() - begin:.0f} s", flush=True)
