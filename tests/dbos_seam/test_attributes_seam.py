"""The attributes of a workflow, changed while somebody else writes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from dbos import DBOS, SetWorkflowID

from crewai_dbos._dbos_seam import attributes
from crewai_dbos._dbos_seam.database import launched_database
from support.launching import launched
from support.names import unique


@DBOS.workflow(name="attributes.nothing")
def nothing() -> None: ...


def test_what_another_writes_meanwhile_is_not_lost(database_url: str) -> None:
    with launched(database_url):
        run_id = unique("run")
        with SetWorkflowID(run_id):
            nothing()
        write = threading.Thread(
            target=lambda: DBOS.update_workflow_attributes(run_id, {"theirs": 1}, merge=True)
        )

        def changed(before: Mapping[str, Any], status: str) -> dict[str, Any]:
            assert status == "SUCCESS"
            write.start()
            write.join(0.3)  # it waits for us, or has written already
            return {**before, "ours": [len(before)]}

        attributes.change(launched_database(), run_id, changed)
        write.join()
        found = DBOS.get_workflow_status(run_id)
        assert found is not None
        assert found.attributes == {"ours": [0], "theirs": 1}

        attributes.change(launched_database(), run_id, lambda *_: None)
        attributes.change(launched_database(), unique("none"), lambda *_: {"ours": 2})
        assert DBOS.get_workflow_status(run_id).attributes == found.attributes  # type: ignore[union-attr]
