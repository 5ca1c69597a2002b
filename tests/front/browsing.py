"""A browser that is driven, and what is wrong with what it shows."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_CHECKS = Path(__file__).with_name("checks.js")
_FIND = Path(__file__).parents[2] / "scripts" / "find-browser"


def found() -> str | None:
    """The path of a browser; None if there is none."""
    if not _FIND.exists():
        return None
    return subprocess.run([_FIND], capture_output=True, text=True).stdout.strip() or None


@contextmanager
def browser() -> Iterator[Browser]:
    """One, without a window."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found(), args=options)
        try:
            yield launched
        finally:
            launched.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """A server with `app`, in a thread. Yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


class Visit:
    """A browser of somebody's, as if new, and what has gone wrong in it.

    Attributes:
        context: The browser, with cookies of its own.
        page: A tab.
        errors: What the console or a script has complained of.
        elsewhere: What was asked of other hosts.
    """

    def __init__(self, browser: Browser, base: str, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(base_url=base, **options)
        self.context.set_default_timeout(15_000)
        self.context.add_init_script(path=_CHECKS)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self._base = base
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._heard)
        page.on("request", self._asked)
        return page

    def _heard(self, message: Any) -> None:
        # A page that says what is wrong with a form is none that is missing.
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.errors.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self._base, "data:")):
            self.elsewhere.append(request.url)

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert self.elsewhere == []
