"""A process that serves a database over HTTP, and nothing else."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from crewai_dbos.control import Control
from crewai_dbos.http import router


def serve(url: str, port: int, token: str) -> None:
    with Control(url) as control:
        app = FastAPI()
        app.include_router(router(control, tokens=[token]))
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")
