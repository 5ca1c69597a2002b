"""Record a run of each program with the code of now: `PYTHONPATH=tests python -m histories.record`.

Done once for a release. Files of earlier versions are never written again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sysconfig
import tempfile
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from crewai_dbos.testing import ModelServer, history
from crewai_dbos.testing.effects import EFFECTS
from histories.programs import PROGRAMS
from support.launching import launched

FOLDER = Path(__file__).parent / importlib.metadata.version("crewai-dbos")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (begin, script) in PROGRAMS.items():
        with tempfile.TemporaryDirectory() as folder, ModelServer(script) as model:
            os.environ.update(model.env)
            os.environ[EFFECTS] = f"{folder}/effects"
            url = f"sqlite:///{folder}/dbos.sqlite"
            with launched(url):
                with SetWorkflowID(name):
                    begin()
                saved = history.save(url, name)
                saved["result"] = DBOS.retrieve_workflow(name).get_result()
        written = json.dumps(saved, indent=1, sort_keys=True) + "\n"
        # Where the packages are on this machine is nobody's business.
        written = written.replace(sysconfig.get_path("purelib"), "site-packages")
        (FOLDER / f"{name}.json").write_text(written)


if __name__ == "__main__":
    main()
