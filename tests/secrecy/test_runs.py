"""Runs that fail with a secret in their error: it is in no table, no file and no log."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import choice, token_hex
from string import ascii_letters, digits
from typing import Any, ClassVar

import httpx
import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.llms.base_llm import BaseLLM
from crewai.mcp import MCPServerHTTP, MCPServerSSE, MCPServerStdio
from crewai.memory.unified_memory import Memory
from crewai.tools import BaseTool, tool
from dbos import DBOS, SetWorkflowID
from pydantic import PrivateAttr, SecretStr

import crewai_dbos
from crewai_dbos import DBOSLLM, DBOSAgent, DBOSCrew, DBOSFlow, DriftError, StepConfig
from crewai_dbos._secrets import known
from crewai_dbos.testing import ModelServer, Reply, Request, ToolCall, error, text, tool_calls
from secrecy.forms import FORMS, MASKED
from secrecy.stored import everything_in
from support.launching import launched_in
from support.names import unique

ALL = {**FORMS, **MASKED}
MODEL = "openai/gpt-4o-mini"


def new_secret() -> str:
    """One that no other test knows, and that does not look like a key of any provider.

    A digit is in each: letters alone that are called `key` are a word.
    """
    return choice(digits) + "".join(choice(ascii_letters + digits) for _ in range(21))


def repeated(secret: str) -> str:
    """An error's text that has the secret in every form."""
    return "Refused: " + " ; ".join(f"[{name}] {form(secret)}" for name, form in ALL.items())


def refusing(secret: str) -> Callable[[Request], Reply]:
    return lambda request: error(401, message=repeated(secret))


def failing(secret: str) -> Any:
    raise RuntimeError(repeated(secret))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What our logger has said, in all that a handler gets to see."""
    with caplog.at_level(logging.DEBUG, "crewai_dbos"):
        yield lambda: "\n".join(
            "\n".join(map(str, vars(record).values())) + caplog.handler.format(record)
            for record in caplog.records
            if record.name == "crewai_dbos"
        )


def leaks(secret: str, where: str) -> list[str]:
    """The forms in which it is there, and the pieces of it that are."""
    found = [name for name, form in ALL.items() if form(secret) in where]
    pieces = {secret[i : i + 8] for i in range(len(secret) - 7)}
    return found + sorted(piece for piece in pieces if piece in where)


def check(folder: Path, log: Callable[[], str], secret: str) -> None:
    stored = everything_in(folder)
    assert "Refused: [plain] ***" in stored
    assert leaks(secret, stored) == []
    assert leaks(secret, log()) == []


def worker(server: ModelServer, **llm: Any) -> Agent:
    model = LLM(**{"model": MODEL, "api_key": "test", "base_url": server.base_url, **llm})
    return Agent(role="Worker", goal="Work", backstory="B", llm=model, max_retry_limit=0)


def test_what_nobody_knows_is_stored_as_it_is(tmp_path: Path, log: Callable[[], str]) -> None:
    """So that the other tests mean something."""
    secret = new_secret()
    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        agent = DBOSAgent(agent_name=unique("agent"), orig_agent=worker(server))
        with pytest.raises(Exception, match="Refused"):
            agent.kickoff("Hello.")
    stored = everything_in(tmp_path)
    assert [name for name, form in ALL.items() if form(secret) not in stored] == []


# Where a secret is -----------------------------------------------------------------


@dataclass
class Place:
    """What is set up with the secret. The agent at work fails, and `idle` only is in its crew."""

    llm: dict[str, Any] = field(default_factory=dict)
    idle: dict[str, Any] = field(default_factory=dict)
    crew: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class Holding(BaseTool):
    name: str = "hold"
    description: str = "Hold."
    api_key: str = ""
    login: SecretStr = SecretStr("")
    config: Any = None
    _token: str = PrivateAttr("")

    def _run(self) -> str:
        return "held"


def with_private(token: str) -> BaseTool:
    made = Holding()
    made._token = token
    return made


def with_closure(api_key: str) -> BaseTool:
    @tool
    def ask() -> str:
        """Ask."""
        return api_key

    return ask


def holding(**fields: Any) -> Place:
    return Place(idle={"tools": [Holding(**fields)]})


def serving(**fields: Any) -> Place:
    return Place(idle={"mcps": [MCPServerStdio(command="mcp", **fields)]})


def embedding(key: str) -> dict[str, Any]:
    return {"provider": "openai", "config": {"api_key": key}}


PLACES: dict[str, Callable[[str], Place]] = {
    "api_key": lambda s: Place({"api_key": s}),
    "default_headers": lambda s: Place({"default_headers": {"X-Gate": s}}),
    "authorization header": lambda s: Place({"default_headers": {"Authorization": f"Bearer {s}"}}),
    "cookie": lambda s: Place({"default_headers": {"Cookie": f"a=b; sid={s}; Path=/"}}),
    "extra_headers": lambda s: Place({"additional_params": {"extra_headers": {"X-Gate": s}}}),
    "extra_body": lambda s: Place({"additional_params": {"extra_body": {"auth_token": s}}}),
    "default_query": lambda s: Place({"default_query": {"sig": s, "api_key": s}}),
    "field of a tool": lambda s: holding(api_key=s),
    "SecretStr of a tool": lambda s: holding(login=SecretStr(s)),
    "config of a tool": lambda s: holding(config={"clients": [{"auth": ("me", s)}]}),
    "AWS keys of a tool": lambda s: holding(config={"aws_secret_access_key": s}),
    "account key of a tool": lambda s: holding(config=f"AccountName=a;AccountKey={s};X=y"),
    "URL of a tool": lambda s: holding(config={"base": f"https://me:{s}@shop.test"}),
    "private attribute of a tool": lambda s: Place(idle={"tools": [with_private(s)]}),
    "closure of a tool": lambda s: Place(idle={"tools": [with_closure(s)]}),
    "embedder": lambda s: Place(idle={"embedder": embedding(s)}),
    "memory": lambda s: Place(idle={"memory": Memory(llm=MODEL, embedder=embedding(s))}),
    "argument of an MCP server": lambda s: serving(args=["x", f"--api-key={s}"]),
    "next argument of an MCP server": lambda s: serving(args=["x", "--token", s]),
    "environment of an MCP server": lambda s: serving(env={"SHOP_PAT": s}),
    "URL of an MCP server": lambda s: Place(idle={"mcps": [f"https://mcp.test/?api_key={s}"]}),
    "headers of an MCP server": lambda s: Place(
        idle={"mcps": [MCPServerHTTP(url="https://mcp.test", headers={"X-Gate": s})]}
    ),
    "secrets=[...]": lambda s: Place(crew={"secrets": [s]}),
    "secrets=[SecretStr]": lambda s: Place(crew={"secrets": [SecretStr(s)]}),
    **{
        f"variable {name}": lambda s, name=name: Place(environment={name: s})  # type: ignore[misc]
        for name in (
            *("SHOP_API_KEY", "SHOP_TOKEN", "SHOP_SECRET", "SHOP_PASSWORD", "SHOP_DSN", "SHOP_PAT"),
            *("SHOP_PASS", "SHOP_PWD", "SHOP_AUTH", "SHOP_COOKIE", "SHOP_WEBHOOK", "SHOP_JWT"),
            *("SHOP_CONNECTION_STRING", "SHOP_CREDENTIALS", "SHOP_PASSPHRASE", "SHOP_SAS"),
        )
    },
    "URL in the environment": lambda s: Place(environment={"SHOP": f"https://me:{s}@shop.test"}),
    "query in the environment": lambda s: Place(environment={"MALL": f"https://shop.test?sig={s}"}),
    "JSON in the environment": lambda s: Place(environment={"MART": f'{{"client_secret": "{s}"}}'}),
}


@dataclass
class Everywhere:
    """One run with a secret in each of these places, all of which its error tells."""

    secrets: dict[str, str]
    statuses: list[str]
    stored: str
    said: str


class Said(logging.Handler):
    """What our logger says in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [*map(str, vars(record).values()), self.format(record)]

    def __enter__(self) -> list[str]:
        self._log = logging.getLogger("crewai_dbos")
        self._before = self._log.level
        self._log.addHandler(self)
        self._log.setLevel(logging.DEBUG)
        return self.texts

    def __exit__(self, *_: object) -> None:
        self._log.setLevel(self._before)
        self._log.removeHandler(self)


def together(options: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Options with the lists and dicts that several give under one name."""
    both: dict[str, Any] = {}
    for name, value in (item for each in options for item in each.items()):
        if isinstance(value, dict):
            both[name] = together([both.get(name, {}), value])
        else:
            both[name] = [*both.get(name, []), *value] if isinstance(value, list) else value
    return both


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Everywhere:
    folder = tmp_path_factory.mktemp("everywhere")
    secrets = {name: new_secret() for name in PLACES}
    message = "\n".join(f"({n}) {repeated(each)}" for n, each in enumerate(secrets.values()))
    with pytest.MonkeyPatch.context() as patch, Said() as said:
        patch.setattr(known, "_known", known._Known())
        places = [PLACES[name](secret) for name, secret in secrets.items()]
        for name, value in together(place.environment for place in places).items():
            patch.setenv(name, value)
        with (
            ModelServer(lambda request: error(401, message=message)) as server,
            launched_in(folder),
        ):
            other = LLM(model=MODEL, api_key="test", base_url=server.base_url)
            agent = worker(server, **together(place.llm for place in places))
            idle = [
                Agent(role=f"Idle {n}", goal="Wait", backstory="B", llm=other, **place.idle)
                for n, place in enumerate(places)
                if place.idle
            ]
            task = Task(description="Work.", expected_output="Work.", agent=agent)
            crew = Crew(agents=[agent, *idle], tasks=[task])
            durable = DBOSCrew(
                crew_name=unique("crew"),
                orig_crew=crew,
                **together(place.crew for place in places),
            )
            with pytest.raises(Exception, match="Refused"):
                durable.kickoff()
            statuses = [row.status for row in DBOS.list_workflows()]
    return Everywhere(secrets, statuses, everything_in(folder), "\n".join(said))


@pytest.mark.parametrize("name", PLACES)
def test_a_secret_of_this_place_is_not_stored(name: str, everywhere: Everywhere) -> None:
    secret = everywhere.secrets[name]
    assert everywhere.statuses == ["ERROR"]
    assert f"({[*PLACES].index(name)}) Refused: [plain] ***" in everywhere.stored
    assert leaks(secret, everywhere.stored) == []
    assert leaks(secret, everywhere.said) == []


# Where it comes up -----------------------------------------------------------------


def plain_agent(server: ModelServer, **fields: Any) -> Agent:
    llm = LLM(model=MODEL, api_key="test", base_url=server.base_url)
    return Agent(role="R", goal="G", backstory="B", llm=llm, max_retry_limit=0, **fields)


def using_a_tool(request: Request) -> Reply:
    name, *_ = request.offered_tools
    return text("Done.") if request.tool_results else tool_calls(ToolCall(name, {}))


def test_an_error_of_a_tool(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()

    @tool
    def fail() -> str:
        """Fail."""
        return str(failing(secret))

    with ModelServer(using_a_tool) as server, launched_in(tmp_path):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=plain_agent(server, tools=[fail]),
            tool_step_config=StepConfig(),
            secrets=[secret],
        )
        assert agent.kickoff("Hello.").raw == "Done."
        shown = "".join(str(message) for request in server.requests for message in request.messages)
    assert "Refused: [plain] ***" in shown
    check(tmp_path, log, secret)


class Weather(BaseTool):
    name: str = "weather"
    description: str = "Tell the weather."
    url: str
    api_key: str

    def _run(self) -> str:
        with httpx.Client() as client:
            path = f"{self.url}/bot{self.api_key}/now"
            client.get(path, params={"appid": self.api_key, "q": "Oslo"}).raise_for_status()
        return "fine"


def test_the_key_of_a_tool_in_the_address_of_an_http_error(
    tmp_path: Path, log: Callable[[], str]
) -> None:
    secret = f"{new_secret()}/+=&"
    with ModelServer(using_a_tool) as server, launched_in(tmp_path):
        weather = Weather(url=server.base_url, api_key=secret)
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=plain_agent(server, tools=[weather]),
            tool_step_config=StepConfig(),
        )
        assert agent.kickoff("Hello.").raw == "Done."
    stored = everything_in(tmp_path)
    assert "/now?appid=***&q=Oslo" in stored
    assert leaks(secret, stored) == []


def test_an_error_of_a_guardrail(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()
    with ModelServer(lambda request: text("Hello.")) as server, launched_in(tmp_path):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=plain_agent(server, guardrail=lambda output: failing(secret)),
            secrets=[secret],
        )
        with pytest.raises(RuntimeError, match=r"\[plain\] \*\*\* ; \[JSON\] \*\*\*"):
            agent.kickoff("Hello.")
    check(tmp_path, log, secret)


def test_an_error_of_a_callback(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()
    with ModelServer(lambda request: text("Hello.")) as server, launched_in(tmp_path):
        agent = plain_agent(server)
        task = Task(description="Say.", expected_output="Words.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task], task_callback=lambda output: failing(secret))
        durable = DBOSCrew(crew_name=unique("crew"), orig_crew=crew, secrets=[secret])
        with pytest.raises(RuntimeError, match="Refused"):
            durable.kickoff()
    check(tmp_path, log, secret)


def test_an_error_of_a_method_of_a_flow(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()

    class Failing(Flow[Any]):
        @start()
        def begin(self) -> str:
            try:
                crewai_dbos.step(failing, secret)
            except RuntimeError as error:
                raise ValueError(repeated(secret)) from error
            return "not reached"

    with launched_in(tmp_path):
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Failing, secrets=[secret])
        with pytest.raises(ValueError, match="Refused"):
            flow.kickoff()
    check(tmp_path, log, secret)


def test_an_llm_that_a_method_of_a_flow_makes(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()

    class Asking(Flow[Any]):
        @start()
        def begin(self) -> str:
            llm = LLM(model=MODEL, api_key=secret, base_url=server.base_url)
            return str(llm.call("Hello."))

    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        flow = DBOSFlow(flow_name=unique("flow"), orig_flow=Asking)
        with pytest.raises(Exception, match="Refused"):
            flow.kickoff()
    check(tmp_path, log, secret)


def test_an_agent_in_a_workflow_of_the_users(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()
    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=worker(server, default_headers={"X-Gate": secret}),
        )

        @DBOS.workflow(name=unique("workflow"))
        def work() -> str:
            return str(agent.kickoff("Hello.").raw)

        with pytest.raises(Exception, match="Refused"):
            work()
    check(tmp_path, log, secret)


def test_a_bare_llm_in_a_workflow_of_the_users(tmp_path: Path, log: Callable[[], str]) -> None:
    secret, given = new_secret(), new_secret()
    message = f"{repeated(secret)} {repeated(given)}"
    with ModelServer(lambda _: error(400, message=message)) as server, launched_in(tmp_path):
        llm = LLM(model=MODEL, api_key=secret, base_url=server.base_url)
        durable = DBOSLLM(llm, secrets=[given])

        @DBOS.workflow(name=unique("workflow"))
        def work() -> str:
            return str(durable.call("Hello."))

        with pytest.raises(Exception, match="Refused"):
            work()
    check(tmp_path, log, secret)
    check(tmp_path, log, given)


def test_a_key_that_an_llm_is_given_after_it_was_made(
    tmp_path: Path, log: Callable[[], str]
) -> None:
    secret = new_secret()
    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        llm = DBOSLLM(LLM(model=MODEL, api_key="test", base_url=server.base_url))
        llm.default_headers = {"X-Gate": secret}

        @DBOS.workflow(name=unique("workflow"))
        def work() -> str:
            return str(llm.call("Hello."))

        with pytest.raises(Exception, match="Refused"):
            work()
    check(tmp_path, log, secret)


class KeyStore:
    """Fetches a key when it is first asked for, and keeps it for all objects."""

    key: ClassVar[str | None] = None

    @classmethod
    def token(cls) -> str:
        cls.key = cls.key or new_secret()
        return cls.key


class AsksItsStore(BaseLLM):
    store: Any = None

    def call(self, *args: Any, **kwargs: Any) -> str:
        return str(failing(self.store.token()))


def test_a_key_that_a_class_has_since_the_first_request(
    tmp_path: Path, log: Callable[[], str]
) -> None:
    """The class was looked at before, when it had none."""
    with launched_in(tmp_path):
        llm = AsksItsStore(model="own", store=KeyStore())
        clerk = Agent(role="Clerk", goal="Work", backstory="Diligent.", llm=llm, max_retry_limit=0)
        agent = DBOSAgent(agent_name=unique("agent"), orig_agent=clerk)
        with pytest.raises(Exception, match="Refused"):
            agent.execute_task(Task(description="Do it.", expected_output="A text."))
    assert KeyStore.key is not None
    check(tmp_path, log, KeyStore.key)


def test_what_a_builder_raises(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()
    with ModelServer(lambda request: text("Hello.")) as server, launched_in(tmp_path):

        def build() -> Crew:
            if broken:
                raise OSError(f"can't reach postgresql://app:unknown1@db. {repeated(secret)}")
            agent = plain_agent(server)
            return Crew(
                agents=[agent],
                tasks=[Task(description="Say.", expected_output="Words.", agent=agent)],
            )

        broken: list[bool] = []
        crew = DBOSCrew(crew_name=unique("crew"), orig_crew=build, secrets=[secret])
        with SetWorkflowID(unique("run")):
            run = crew.start()
        run.get_result()
        broken.append(True)
        fork = crew.retrieve(DBOS.fork_workflow(run.workflow_id, 100).workflow_id)
        with pytest.raises(DriftError, match=r"can't reach postgresql://app:\*\*\*@db"):
            fork.get_result()
        noted = (fork.get_status().attributes or {})["crewai_dbos"]["stopped"]
    assert "could not be built (OSError: can't reach postgresql://app:***@db. Refused" in noted
    assert "Stopped: Run" in log()
    check(tmp_path, log, secret)
    assert "unknown1" not in everything_in(tmp_path) + log()


class Vault:
    """Gives out another key each time."""

    def __init__(self) -> None:
        self.given: list[str] = []

    @property
    def next(self) -> str:
        self.given.append(new_secret())
        return self.given[-1]


vault = Vault()


def test_a_builder_that_takes_another_key_each_time(tmp_path: Path, log: Callable[[], str]) -> None:
    def build() -> Crew:
        agent = worker(server, api_key=vault.next)
        task = Task(description="Work.", expected_output="Work.", agent=agent)
        return Crew(agents=[agent], tasks=[task])

    with ModelServer(lambda _: error(401, message=repeated(vault.given[-1]))) as server:
        crew = DBOSCrew(crew_name=unique("crew"), orig_crew=build)
        with launched_in(tmp_path):
            for _ in range(2):
                with pytest.raises(Exception, match="Refused"):
                    crew.kickoff()
    assert len(vault.given) == 3
    for key in vault.given:
        check(tmp_path, log, key)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("server", [MCPServerHTTP, MCPServerSSE])
def test_an_mcp_server_that_can_not_be_reached(
    server: Any, tmp_path: Path, log: Callable[[], str]
) -> None:
    secret, known = new_secret(), new_secret()
    address = f"http://me:{secret}@127.0.0.1:{closed_port()}/{known}?api_key={secret}&x=1"
    mcp = server(url=address, headers={"X-Gate": known})
    with ModelServer(lambda request: text("Hello.")) as models, launched_in(tmp_path):
        agent = DBOSAgent(
            agent_name=unique("agent"), orig_agent=plain_agent(models, mcps=[mcp]), secrets=[known]
        )
        with pytest.raises(Exception, match="onnect"):
            agent.kickoff("Hello.")
        assert [row.status for row in DBOS.list_workflows()] == ["ERROR"]
    for each in (secret, known):
        assert leaks(each, everything_in(tmp_path) + log()) == []


def test_the_tools_of_an_mcp_server_are_not_called_after_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, other = token_hex(10), token_hex(10)
    program = tmp_path / "serve"
    program.write_text(
        f"#!{sys.executable}\n"
        "from mcp.server.fastmcp import FastMCP\n"
        "server = FastMCP('shop')\n"
        "@server.tool()\n"
        "def price() -> str:\n"
        "    return 'seven'\n"
        "server.run()\n"
    )
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    mcps: list[Any] = [
        MCPServerStdio(command="./serve", args=["--token", token]) for token in (secret, other)
    ]
    with ModelServer(using_a_tool) as models, launched_in(tmp_path):
        agent = DBOSAgent(
            agent_name=unique("agent"),
            orig_agent=plain_agent(models, mcps=mcps),
            tool_step_config=StepConfig(),
        )
        assert agent.kickoff("Hello.").raw == "Done."
        offered = models.requests[0].offered_tools
    stored = everything_in(tmp_path)
    assert "price" in stored
    assert "seven" in stored
    assert offered == ["serve_token_price", "serve_token_price_2"]
    assert [token for token in (secret, other) if token in stored] == []


def test_secrets_of_any_characters(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = f"pa\"s\\w/ö r+d<&>=%x'{token_hex(4)}"
    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        agent = DBOSAgent(agent_name=unique("agent"), orig_agent=worker(server), secrets=[secret])
        with pytest.raises(Exception, match="Refused"):
            agent.kickoff("Hello.")
    check(tmp_path, log, secret)


def test_a_batch(tmp_path: Path, log: Callable[[], str]) -> None:
    secret = new_secret()
    with ModelServer(refusing(secret)) as server, launched_in(tmp_path):
        agent = worker(server)
        task = Task(description="Do {n}.", expected_output="Work.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task])
        durable = DBOSCrew(crew_name=unique("crew"), orig_crew=crew, secrets=[secret])
        with pytest.raises(crewai_dbos.BatchError, match=r"\[plain\] \*\*\*"):
            durable.kickoff_for_each([{"n": "1"}, {"n": "2"}])
    check(tmp_path, log, secret)
