"""Make a virtual environment of the running Python, unless it is there already.

usage: python scripts/make_venv.py DIR EXTRAS [CONSTRAINTS]

The environment holds this project (editable) with EXTRAS at the versions of CONSTRAINTS, which are
those of constraints.txt if not given. It is made anew when the Python, the extras, the constraints
or what pyproject.toml says of the project changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

# Byte code is compiled on first import: most of what crewAI brings is never imported.
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")

root = Path(__file__).resolve().parent.parent
target, extras = root / sys.argv[1], sys.argv[2]
constraints = sys.argv[3] if len(sys.argv) > 3 else "constraints.txt"

digest = hashlib.sha256()
for part in (sys.version, sys.base_prefix, str(root), extras):
    digest.update(part.encode() + b"\0")
for name in ("pyproject.toml", constraints, "scripts/make_venv.py"):
    digest.update((root / name).read_text().partition("[tool.ruff]")[0].encode())


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def by_uv(target: Path, what: list[str]) -> bool:
    """Install with uv, in a sixth of pip's time; whether that went well.

    It knows nothing of pip's configuration, so an index and certificates that are set there are
    handed on; what else is set may have it fail.
    """
    python = target / "bin/python"
    with tempfile.TemporaryDirectory() as tools:
        pinned = ("--constraint", root / constraints)  # crewAI brings it, too
        got = run(python, *PIP, *pinned, "--target", tools, "uv")
        if got.returncode:
            return False
        listed = run(python, "-m", "pip", "config", "list").stdout
        configured = {}
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            configured[name.rpartition(".")[2]] = value.strip().strip("'\"")
        env = {}
        if "cert" in configured and "SSL_CERT_FILE" not in os.environ:
            env["SSL_CERT_FILE"] = configured["cert"]
        if "index-url" in configured and "UV_DEFAULT_INDEX" not in os.environ:
            env["UV_DEFAULT_INDEX"] = configured["index-url"]
        uv = [Path(tools, "bin/uv"), "pip", "install", "--quiet", "--python", python]
        return run(*uv, *what, **env).returncode == 0


def by_pip(target: Path, what: list[str]) -> None:
    result = run(target / "bin/python", *PIP, *what)
    if result.returncode:
        sys.exit(f"{result.stdout}{result.stderr}\npip could not make {target}")


stamp = target / "inputs.sha256"
if not stamp.exists() or stamp.read_text() != digest.hexdigest():
    begin = time.monotonic()
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"making {sys.argv[1]} (Python {version}); this takes a minute", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, with_pip=True)
    project = f"{root}[{extras}]" if extras else str(root)
    what = ["--constraint", str(root / constraints), "--editable", project]
    if not by_uv(target, what):
        by_pip(target, what)
    stamp.write_text(digest.hexdigest())
    print(f"made {sys.argv[1]} in {time.monotonic() - begin:.0f} s", flush=True)
