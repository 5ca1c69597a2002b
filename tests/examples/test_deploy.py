"""examples/deploy: the parts of its compose file as plain processes, and its manifests."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from dbos import DBOSClient
from prometheus_client.parser import text_string_to_metric_families

import crewai_dbos
from crewai_dbos._versions import TESTED
from crewai_dbos.testing import ModelServer, Request, text
from people.conftest import until
from support.python import Program

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
SOURCE = str(Path(crewai_dbos.__file__).parents[1])
TOPICS = ["otters", "seals", "badgers", "moles", "hares", "stoats"]


def filled_in(value: str, given: Mapping[str, str]) -> str:
    """`value` of a compose file with its ``${NAME}``, ``${NAME:-default}``, ``${NAME:?text}``."""

    def of(match: re.Match[str]) -> str:
        name, how, other = match.groups()
        if name in given:
            return given[name]
        assert how == ":-", f"{name} is not set: {other}"
        return other

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", of, value)


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][name]
    return found


@dataclass
class Part:
    """A container of the compose file, as a process."""

    process: Program
    port: int

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=30) as said:
            return str(said.read().decode())

    def runs(self) -> list[str]:
        return [each["run_id"] for each in json.loads(self.get("/status"))["runs"]]

    def measured(self, name: str) -> float:
        families = text_string_to_metric_families(self.get("/metrics"))
        return sum(each.value for family in families for each in family.samples if each[0] == name)


class Compose:
    """What ``docker compose up`` starts, with a database of the tests in place of its own."""

    def __init__(self, url: str, model: ModelServer) -> None:
        given = {"POSTGRES_PASSWORD": "secret", "LEASE": "3", "HEALTH_PORT": "0", **model.env}
        worker = service("worker")
        self.command = [filled_in(each, given) for each in worker["command"]]
        told = {key: filled_in(str(each), given) for key, each in worker["environment"].items()}
        self.database = told.pop("DBOS_SYSTEM_DATABASE_URL")
        self.replicas = int(worker["deploy"]["replicas"])
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")]),
            "DBOS_SYSTEM_DATABASE_URL": url,
            **told,
        }

    def start(self, command: list[str]) -> Program:
        program = {"crewai-dbos": ["-m", "crewai_dbos.cli"], "python": []}[command[0]]
        return Program(*program, *command[1:], folder=DEPLOY, env=self._environment)

    def up(self) -> list[Part]:
        processes = [self.start(self.command) for _ in range(self.replicas)]
        return [Part(process, _port(process)) for process in processes]


def _port(process: Program) -> int:
    said = r"health is served at .*:(\d+)"
    return int(until(lambda: _found(said, process))[1])


def _found(pattern: str, process: Program) -> re.Match[str] | None:
    process.check_is_there()
    return re.search(pattern, "".join(process._texts()))


class Scribe:
    """A model that writes nothing until it may; the facts are found at once."""

    def __init__(self) -> None:
        self.may_write = threading.Event()

    def __call__(self, request: Request) -> Any:
        if "Write a page" not in request.last_user_text:
            return text("They are brown.")
        self.may_write.wait(120)
        return text("Once upon a time.")


@pytest.fixture
def compose(databases: Any) -> Iterator[tuple[Compose, Scribe, ModelServer, str]]:
    scribe = Scribe()
    with databases.fresh() as url, ModelServer(scribe) as model:
        yield Compose(url, model), scribe, model, url


@pytest.mark.crash
def test_a_worker_of_the_compose_file_is_killed(compose: Any) -> None:
    composed, scribe, model, url = compose
    parts: list[Part] = []
    try:
        parts += composed.up()
        assert len({part.port for part in parts}) == 3
        asked = composed.start(["python", "enqueue.py", *TOPICS])
        said, errors = asked.communicate(timeout=120)
        assert asked.returncode == 0, errors
        runs = [f"research-{topic}" for topic in TOPICS]
        assert (said + errors).split() == runs
        until(lambda: sorted(run for part in parts for run in part.runs()) == sorted(runs))
        until(lambda: _asked(model)["write"] == len(runs))
        # All tell the same of the database.
        assert {part.measured("crewai_dbos_runs") for part in parts} == {6}

        killed = max(parts, key=lambda part: len(part.runs()))
        lost = killed.runs()
        assert lost
        killed.process.kill()
        left = [part for part in parts if part is not killed]
        until(lambda: sum(part.measured("crewai_dbos_takeovers_total") for part in left) > 0)
        scribe.may_write.set()
        client = DBOSClient(system_database_url=url)
        try:
            handles = [client.retrieve_workflow(run) for run in runs]
            until(lambda: {each.get_status().status for each in handles} == {"SUCCESS"})
        finally:
            client.destroy()
        assert _asked(model) == {"find": len(runs), "write": len(runs) + len(lost)}
        assert sum(part.measured("crewai_dbos_takeovers_total") for part in left) >= len(lost)
        for part in left:
            part.process.send_signal(signal.SIGTERM)
            part.process.communicate(timeout=60)
        assert [part.process.returncode for part in left] == [0, 0]
    finally:
        scribe.may_write.set()
        for part in parts:
            part.process.end()


def _asked(model: ModelServer) -> Counter[str]:
    """How many requests there were for facts, and for pages."""
    is_page = ("Write a page" in request.last_user_text for request in model.requests)
    return Counter("write" if page else "find" for page in is_page)


def test_the_compose_file_fits_together() -> None:
    with ModelServer(lambda _: text("")) as model:
        composed = Compose("", model)
    database, given = urlsplit(composed.database), service("postgres")["environment"]
    assert database.hostname == "postgres"
    assert database.username == given["POSTGRES_USER"]
    assert database.password == "secret"
    assert database.path == f"/{given['POSTGRES_DB']}"
    grace = _seconds(composed.command, "--grace")
    assert grace < int(service("worker")["stop_grace_period"].removesuffix("s"))
    command = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]["command"]
    for given_port in ({}, {"HEALTH_PORT": "9000"}):
        port = filled_in(_option(command, "--health-port"), given_port)
        asked = filled_in(service("worker")["healthcheck"]["test"][-1], given_port)
        assert f"127.0.0.1:{port}/live" in asked
    assert service("postgres")["image"] == f"postgres:{_tested_postgres()}"


def _tested_postgres() -> str:
    """The version that the tests run on, as the page of supported versions says."""
    page = (DEPLOY.parents[1] / "docs" / "versions.md").read_text()
    (version,) = re.findall(r"^\| Postgres \| (\d+) \|", page, re.MULTILINE)
    return str(version)


def test_the_image_has_the_releases_that_were_tested() -> None:
    project = (DEPLOY.parents[1] / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', project, re.MULTILINE)
    pinned = (DEPLOY / "requirements.txt").read_text().split()
    tested = [f"{package}=={release}" for package, release in TESTED.items()]
    assert pinned == [f"crewai-dbos[cli,metrics]=={version}", *tested]


def test_the_image_has_what_the_commands_need() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    (copied,) = [shlex.split(line)[1:-1] for line in lines if ".py " in line]
    assert {"app.py", "enqueue.py"} == set(copied)
    assert all((DEPLOY / name).exists() for name in copied)
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line[:4] == "CMD "]
    assert command[:3] == service("worker")["command"][:3]


def test_the_kubernetes_manifest() -> None:
    manifests = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    by_kind = {each["kind"]: each for each in manifests}
    deployment, budget = by_kind["Deployment"], by_kind["PodDisruptionBudget"]
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    (container,) = pod["spec"]["containers"]
    assert _seconds(container["args"], "--grace") < pod["spec"]["terminationGracePeriodSeconds"]
    assert container["command"] + container["args"][:2] == service("worker")["command"][:3]

    port = int(_option(container["args"], "--health-port"))
    (named,) = container["ports"]
    assert named["containerPort"] == port
    told = pod["metadata"]["annotations"]
    assert told["prometheus.io/port"] == str(port)
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    assert {each["path"] for each in probes.values()} == {"/live"}
    ready = container["readinessProbe"]["httpGet"]
    assert ready["path"] == "/ready"
    assert {each["port"] for each in (*probes.values(), ready)} == {named["name"]}
    assert {"/live", "/ready", told["prometheus.io/path"]} <= set(_paths())

    environment = {each["name"]: each for each in container["env"]}
    secret = environment["DBOS_SYSTEM_DATABASE_URL"]["valueFrom"]["secretKeyRef"]
    created = (DEPLOY / "kubernetes.yaml").read_text().partition("apiVersion")[0]
    assert f"secret generic {secret['name']}" in created
    assert f"--from-literal={secret['key']}=" in created
    scaled = yaml.safe_load((DEPLOY / "autoscaling.yaml").read_text())["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["minReplicaCount"] == deployment["spec"]["replicas"]


def _paths() -> list[str]:
    """What a worker serves."""
    page = (DEPLOY.parents[1] / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| ((?:`/\w*`(?:, )?)+) \|", page, re.MULTILINE)
    return [path for row in rows for path in re.findall(r"`(/\w*)`", row)]


def _option(command: list[str], name: str) -> str:
    (found,) = [each.partition("=")[2] for each in command if each.startswith(f"{name}=")]
    return found


def _seconds(command: list[str], name: str) -> int:
    return int(_option(command, name))
