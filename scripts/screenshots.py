"""Make the pictures of the page in docs/images, of runs of the examples.

usage: python scripts/screenshots.py [FOLDER]

It needs a Chromium (scripts/find-browser) and what the tests need. Without keys or a network: a
scripted model plays the agents. Look at what it has made before it is committed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
sys.path[:0] = [str(ROOT / "tests"), str(EXAMPLES)]

LETTER = {
    "to": "ann@example.org",
    "subject": "Your kettle",
    "body": "Dear Ann,\n\nyour kettle left our house on Tuesday and will be with you on Friday.\n\n"
    "Kind regards,\nthe office",
}
TOLD = {
    "to": "sales@office.example",
    "subject": "Kettle of Ann",
    "body": "Ann was told that it comes on Friday.",
}


def model(request: Any) -> Any:
    """Plays the agents of the examples, in the time that a real one takes."""
    from crewai_dbos.testing import delayed

    return delayed(0.5 + len(str(request.messages)) % 13 / 10, said(request))


def said(request: Any) -> Any:
    """What it says."""

    from crewai_dbos.testing import ToolCall, text, tool_calls
    from examples.models import support

    if "You are Clerk" in request.system_text:
        if "cut off" in str(request.messages):
            return text("")
        done = len(request.tool_results)
        if done < 2:
            return tool_calls(ToolCall("send_email", [LETTER, TOLD][done]))
        return text("Ann was written to, and sales was told.")
    return support(request)


def runs(control: Any) -> dict[str, str]:
    """Runs in each state; returns those to look at."""
    from approved_mail import office
    from dbos import SetWorkflowID
    from intake import intake
    from ticket_triage import Triage

    from crewai_dbos import DBOSFlow
    from crewai_dbos.control import Approve

    triage = DBOSFlow(flow_name="ticket_triage", orig_flow=Triage)

    def start(run_id: str, definition: Any, **inputs: Any) -> None:
        with SetWorkflowID(run_id):
            definition.start(inputs)

    def until(look: Callable[[], Any]) -> Any:
        while not (found := look()):
            time.sleep(0.05)
        return found

    def state(run_id: str, *states: str) -> None:
        until(lambda: control.run(run_id).state in states)

    start("mail-4709", office, mail="From zoe@example.org: (cut off)")
    tickets = str(EXAMPLES / "tickets")
    start("triage-monday", triage, folder=tickets, replies="replies")
    state("triage-monday", "done")
    start("order-7", intake, customer="Ann")
    start("order-6", intake, customer="Bob")
    until(lambda: control.requests(run_id="order-6"))
    control.cancel("order-6", reason="Bob has bought it elsewhere.", by="ann")
    start("mail-4710", office, mail="From ann@example.org: where is my kettle?")
    (request,) = until(lambda: control.requests(run_id="mail-4710"))
    time.sleep(4)
    control.answer(request.request_id, Approve(), by="ann")
    state("mail-4710", "done")
    start("mail-4711", office, mail="From ann@example.org: where is my kettle?")
    (request,) = until(lambda: control.requests(run_id="mail-4711"))
    start("triage-tuesday", triage, folder=tickets, replies="replies")
    until(lambda: len(control.run("triage-tuesday").children) > 2)
    return {"request": request.request_id}


def shots(base: str, seen: dict[str, str], folder: Path) -> None:
    """Takes the pictures."""
    from front.browsing import browser

    with browser() as found:
        for name, path, size, scheme in (
            ("page-runs", "/", (1120, 620), "light"),
            ("page-run", "/run/mail-4710", (1120, 640), "light"),
            ("page-request", f"/request/{seen['request']}", (1120, 580), "light"),
            ("page-run-dark", "/run/triage-monday", (1120, 680), "dark"),
            ("page-phone", f"/request/{seen['request']}", (390, 870), "dark"),
        ):
            viewport: Any = {"width": size[0], "height": size[1]}
            given: Any = {"base_url": base, "viewport": viewport, "color_scheme": scheme}
            context = found.new_context(**given)
            tab = context.new_page()
            tab.goto(path)
            tab.screenshot(path=folder / f"{name}.png")
            context.close()


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "images").resolve()
    folder.mkdir(exist_ok=True)
    os.environ.update(CREWAI_DISABLE_TELEMETRY="true", CREWAI_TRACING_ENABLED="false")
    from dbos import DBOS

    from crewai_dbos.control import Control
    from crewai_dbos.http import application
    from crewai_dbos.testing import ModelServer
    from front.browsing import served

    with tempfile.TemporaryDirectory() as work, ModelServer(model) as server:
        os.chdir(work)
        os.environ.update(server.env)
        url = f"sqlite:///{work}/shop.sqlite"
        config: Any = {"name": "shop", "system_database_url": url, "log_level": "CRITICAL"}
        DBOS(config={**config, "application_version": "7", "executor_id": "kitchen"})
        DBOS.launch()
        try:
            with Control(url) as control, ThreadPoolExecutor(1) as pool:
                seen = runs(control)
                with served(application(control, local_only=True)) as base:
                    pool.submit(shots, base, seen, folder).result()
        finally:
            DBOS.destroy()


if __name__ == "__main__":
    main()
