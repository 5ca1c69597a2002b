"""Secrets are found in whatever a definition holds, and what is none is not taken for one."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.a2a.auth.client_schemes import BearerTokenAuth, HTTPBasicAuth
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.mcp import MCPServerHTTP, MCPServerSSE, MCPServerStdio
from crewai.memory.unified_memory import Memory
from crewai.rag.embeddings.factory import build_embedder
from crewai.rag.embeddings.providers.openai.openai_provider import OpenAIProvider
from crewai.tools import BaseTool, tool
from dbos import DBOS
from pydantic import AnyUrl, BaseModel, Field, PrivateAttr, SecretBytes, SecretStr

from crewai_dbos import DBOSLLM, DBOSAgent, DefinitionError
from crewai_dbos._secrets import finding
from crewai_dbos._secrets.finding import of_dbos, secrets_in
from crewai_dbos._secrets.given import as_given
from support.names import unique

MODULE_TOKEN = "of-this-module-1"


def found(what: Any) -> dict[str, str]:
    """What is found, each with its first name."""
    names: dict[str, str] = {}
    for name, text in secrets_in(what):
        names.setdefault(text, name)
    return names


def texts(what: Any) -> set[str]:
    return set(found(what))


# LLMs ------------------------------------------------------------------------------

PROVIDERS = {
    "openai": ("crewai.llms.providers.openai.completion", "OpenAICompletion"),
    "azure": ("crewai.llms.providers.azure.completion", "AzureCompletion"),
    "anthropic": ("crewai.llms.providers.anthropic.completion", "AnthropicCompletion"),
    "bedrock": ("crewai.llms.providers.bedrock.completion", "BedrockCompletion"),
    "gemini": ("crewai.llms.providers.gemini.completion", "GeminiCompletion"),
    "snowflake": ("crewai.llms.providers.snowflake.completion", "SnowflakeCompletion"),
    "openai_compatible": (
        "crewai.llms.providers.openai_compatible.completion",
        "OpenAICompatibleCompletion",
    ),
    "litellm": ("crewai.llm", "LLM"),
}


SDKS = {
    "azure": "azure.ai.inference",
    "anthropic": "anthropic",
    "bedrock": "boto3",
    "gemini": "google.genai",
    "litellm": "litellm",
}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of the package that it is in
        return False


# crewAI brings openai; an LLM of another provider needs its SDK.
INSTALLED = [name for name in PROVIDERS if name not in SDKS or _is_there(SDKS[name])]


def provider(name: str) -> Any:
    """The class of a provider."""
    module, cls = PROVIDERS[name]
    return getattr(importlib.import_module(module), cls)


EVERYWHERE: dict[str, Any] = {
    "api_key": "the-api-key-0001",
    "base_url": "https://user:url-password-1@llm.test/v1?key=query-key-0001",
    "additional_params": {
        "extra_headers": {"X-Gate": "extra-header-01", "User-Agent": "not-a-secret-1"},
        "extra_body": {"auth": {"token": "extra-body-0001"}, "mode": "not-a-secret-2"},
    },
}
IN_EVERY_LLM = {
    *("the-api-key-0001", "url-password-1", "query-key-0001"),
    *("extra-header-01", "extra-body-0001"),
}

MORE: dict[str, tuple[dict[str, Any], set[str]]] = {
    "openai": (
        {
            "default_headers": {
                "Authorization": "Bearer default-header-1",
                "X-Tenant": "default-header-2",
                "Cookie": "sid=cookie-value-01",
                "Accept-Language": "not-a-secret-3",
            },
            "default_query": {"api_key": "default-query-1"},
            "client_params": {"default_headers": {"x-key": "client-param-01"}},
        },
        {
            *("default-header-1", "default-header-2", "cookie-value-01"),
            *("default-query-1", "client-param-01"),
        },
    ),
    "azure": (
        {"endpoint": "https://me:endpoint-pass-1@x.openai.azure.com", "model": "gpt-4o"},
        {"endpoint-pass-1"},
    ),
    "anthropic": (
        {"client_params": {"default_headers": {"x-gate": "client-param-01"}}},
        {"client-param-01"},
    ),
    "bedrock": (
        {
            "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "aws_secret_access_key": "aws-secret-key-01",
            "aws_session_token": "aws-session-tok-1",
            "region_name": "us-east-1",
        },
        {"AKIAIOSFODNN7EXAMPLE", "aws-secret-key-01", "aws-session-tok-1"},
    ),
    "gemini": (
        {"client_params": {"http_options": {"headers": {"x-gate": "client-param-01"}}}},
        {"client-param-01"},
    ),
    "snowflake": ({"account_identifier": "my-account"}, set()),
    "openai_compatible": ({"provider": "deepseek"}, set()),
    "litellm": ({"api_base": "https://llm.test/?token=api-base-tok-1"}, {"api-base-tok-1"}),
}


@pytest.mark.parametrize("name", INSTALLED)
def test_all_that_an_llm_holds(name: str) -> None:
    cls = provider(name)
    fields, more = MORE[name]
    llm = cls(**{"model": "some-model", **EVERYWHERE, **fields})
    # One whose address is made from an account keeps no other.
    gone = set() if llm.base_url == EVERYWHERE["base_url"] else {"url-password-1", "query-key-0001"}
    assert texts(llm) >= (IN_EVERY_LLM | more) - gone
    assert not [text for text in texts(llm) if "not-a-secret" in text]
    assert found(llm)["the-api-key-0001"].startswith("api_key of the LLM ")


def test_a_client_of_httpx_is_looked_through() -> None:
    client = httpx.Client(
        headers={"X-Gate": "client-header-1", "Accept": "not-a-secret-1"},
        auth=("me", "client-password"),
        cookies={"sid": "client-cookie-1"},
        base_url="https://me:client-url-0001@shop.test/?sig=client-url-0002",
    )
    sent = "bWU6Y2xpZW50LXBhc3N3b3Jk"  # me:client-password
    assert texts(SimpleNamespace(client=client)) >= {
        *("client-header-1", "client-cookie-1", sent, "client-password", "client-url-0001"),
    }
    assert "not-a-secret-1" not in texts(client)


def test_an_llm_of_the_users_own_class() -> None:
    class Own(type(LLM(model="openai/gpt-4o-mini", api_key="k"))):  # type: ignore[misc]
        vault: Any = None
        _ticket: SecretStr = PrivateAttr(SecretStr("private-ticket"))

    vault = SimpleNamespace(inner=[{"passphrase": "open sesame twice"}])
    assert texts(Own(model="gpt-4o-mini", api_key="k", vault=vault)) >= {
        "private-ticket",
        "open sesame twice",
    }


# Tools -----------------------------------------------------------------------------


class Connection:
    region_key: ClassVar[str] = "of-the-class-01"

    def __init__(self) -> None:
        self.url = "postgresql://me:of-the-url-0001@db/shop"
        self.__hidden_token = "name-mangled-01"

    def send(self) -> str:
        return MODULE_TOKEN


class Slotted:
    __slots__ = ("password", "unset")

    def __init__(self) -> None:
        self.password = "in-a-slot-00001"


@dataclass
class Settings:
    secret: str = "of-a-dataclass-1"
    key: str = "Zm9vYmFyYmF6cXV4MQ"
    title: str = "not-a-secret-1"


CONFIG = {"auth": ["me", "nested-list-001"], "tokens": {"a": "nested-dict-001"}}


class Search(BaseTool):
    name: str = "search"
    description: str = "Search."
    api_key: str = "tool-field-0001"
    revealed: SecretStr = SecretStr("secret-str-0001")
    raw: SecretBytes = SecretBytes(b"secret-bytes-01")
    config: dict[str, Any] = Field(default_factory=lambda: CONFIG)
    address: AnyUrl = AnyUrl("https://me:pydantic-url-1@search.test/?token=pydantic-url-2")
    callback_url: str = "https://search.test/?sig=signature-0001"
    connection: Any = None
    _token: str = PrivateAttr("private-token-1")

    def _run(self) -> str:
        return MODULE_TOKEN


def test_all_that_a_tool_holds() -> None:
    connection = SimpleNamespace(
        real=Connection(),
        slots=Slotted(),
        settings=Settings(),
        make=functools.partial(print, "--token", "of-a-partial-01", password="of-a-partial-02"),
        bound=Connection().send,
    )
    connection.back = connection  # a circle
    assert texts(Search(connection=connection)) == {
        *("tool-field-0001", "secret-str-0001", "secret-bytes-01", "private-token-1"),
        *("nested-list-001", "nested-dict-001", "pydantic-url-1", "pydantic-url-2"),
        *("signature-0001", "of-this-module-1", "of-the-class-01", "of-the-url-0001"),
        *("name-mangled-01", "in-a-slot-00001", "of-a-dataclass-1", "Zm9vYmFyYmF6cXV4MQ"),
        *("of-a-partial-01", "of-a-partial-02"),
    }


def made_with(api_key: str) -> Any:
    @tool
    @DBOS.step()
    def ask(question: str, *, token: str = "of-a-default-01") -> str:
        """Ask."""
        return question + api_key + MODULE_TOKEN

    return ask


def test_a_function_refers_to_secrets() -> None:
    names = found(made_with("of-a-closure-01"))
    assert names["of-a-closure-01"] == "api_key of ask()"
    assert names["of-this-module-1"] == f"MODULE_TOKEN of {__name__}"
    assert names["of-a-default-01"] == "token of ask()"


def test_nothing_is_called_to_look_at_it() -> None:
    class Touchy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        @property
        def token(self) -> str:
            raise AssertionError("token")

        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("iter")

        def __repr__(self) -> str:
            raise AssertionError("repr")

        def __eq__(self, other: object) -> bool:
            raise AssertionError("eq")

        __hash__ = None  # type: ignore[assignment]

    class Broken:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("a proxy without its object")

    what = [Touchy(), Broken(), {"password": "after-both-0001"}]
    assert texts(what) == {"after-both-0001"}


def test_an_endless_object_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "MOST", 500)
    deep: Any = {}
    for _ in range(10_000):
        deep = {"inside": deep}
    assert texts([{"password": "near-by-secret1"}, deep, "x" * 1_000_000]) == {"near-by-secret1"}


# MCP, embedders, memory, knowledge, a2a ---------------------------------------------


def test_mcp_servers() -> None:
    arguments = [
        *("serve", "--api-key=argument-0001", "--token", "argument-0002", "-e"),
        *("SHOP_PAT=argument-0003", "-H", "X-Auth: Bearer argument-0004", "--port", "80800808"),
    ]
    environment = {"SHOP_DSN": "environment-1", "MODE": "not-a-secret"}
    cookies = {"Cookie": "a=headers-00002"}
    servers: list[Any] = [
        MCPServerStdio(command="x", args=arguments, env=environment),
        MCPServerHTTP(url="https://me:address-0001@mcp.test", headers={"X-Shop": "headers-00001"}),
        MCPServerSSE(url="https://mcp.test/?api_key=address-0002", headers=cookies),
        "https://mcp.test/?token=address-0003#tool",
    ]
    llm = LLM(model="openai/gpt-4o-mini", api_key="k")
    agent = Agent(role="R", goal="G", backstory="B", llm=llm, mcps=servers)
    assert texts(agent) == {
        *("argument-0001", "argument-0002", "argument-0003", "argument-0004"),
        *("Bearer argument-0004", "environment-1", "address-0001", "headers-00001"),
        *("address-0002", "a=headers-00002", "headers-00002", "address-0003"),
    }


def test_embedders_memory_and_knowledge() -> None:
    config = {"provider": "openai", "config": {"api_key": "embedder-key-01"}}
    azure = {"provider": "azure", "config": {"api_key": "embedder-key-02", "deployment_id": "d"}}
    built = build_embedder({"provider": "openai", "config": {"api_key": "embedder-key-03"}})
    provider = OpenAIProvider(api_key="embedder-key-04", default_headers={"X": "embedder-key-05"})
    assert texts([config, azure, built, provider]) >= {f"embedder-key-0{n}" for n in range(1, 6)}

    llm = LLM(model="openai/gpt-4o-mini", api_key="memory-llm-key1")
    memory = Memory(llm=llm, embedder=config)
    source = StringKnowledgeSource(content="Otters use stones.")
    agent = Agent(
        role="R", goal="G", backstory="B", llm=llm, memory=memory,
        knowledge_sources=[source], embedder=azure,
    )  # fmt: skip
    crew = Crew(agents=[agent], tasks=[Task(description="D", expected_output="E", agent=agent)])
    assert texts(crew) >= {"memory-llm-key1", "embedder-key-01", "embedder-key-02"}


def test_documents_are_not_looked_through() -> None:
    source = StringKnowledgeSource(content="a=https://me:in-a-document1@shop.test " + "b" * 5000)
    source.chunks = ["https://me:in-a-document2@shop.test"] * 3
    beside = {"password": "beside-them-001", "prompt": "https://me:in-a-prompt-001@shop.test"}
    assert texts([source, beside]) == {"beside-them-001", "in-a-prompt-001"}


def test_credentials_of_remote_agents_and_of_google() -> None:
    account = {
        "type": "service_account",
        "client_email": "me@project.iam.test",
        "private_key": "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n",
        "client_secret": "client-secret-1",
        "token_uri": "https://oauth2.test/token",
    }
    basic = HTTPBasicAuth(username="me", password="basic-pass-01")
    a2a = [BearerTokenAuth(token="bearer-token-01"), basic]
    assert texts({"credentials": account, "a2a": a2a}) == {
        *("client-secret-1", "bearer-token-01", "basic-pass-01"),
        account["private_key"].strip(),
    }


def test_the_database_of_dbos() -> None:
    url = "postgresql://dbos:system-db-pass@db.test/dbos"
    arguments = {"connect_args": {"sslpassword": "engine-kwarg-01"}}
    DBOS(config={"name": "tests", "system_database_url": url, "db_engine_kwargs": arguments})
    try:
        assert {found.text for found in of_dbos()} == {"system-db-pass", "engine-kwarg-01"}
    finally:
        DBOS.destroy()
    assert list(of_dbos()) == []


# Definitions -------------------------------------------------------------------------


HARMLESS = {"Content-Type": "application/json", "User-Agent": "reporter/1.0.0"}


def test_what_is_none_is_not_taken_for_one() -> None:
    class Reporter(BaseTool):
        name: str = "report"
        description: str = "Report the monkey on the keyboard to the author."
        author: str = "Ada Lovelace, Countess"
        keyboard: str = "de-latin1-nodeadkeys"
        max_tokens: str = "40960000000"
        tokenizer: str = "cl100k_base_tokenizer"
        sort_key: str = "published_at_desc"
        key: str = "description"
        auth_type: str = "service-account"
        password: str = "short"
        api_key_env: str = "OPENAI_API_KEY"
        headers: dict[str, str] = Field(default_factory=lambda: HARMLESS)

        def _run(self) -> str:
            return "done"

    assert texts(Reporter()) == set()


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        (["longer", "abc"], r"secrets\[1\] has fewer than 4 characters"),
        ([SecretStr("abc")], r"secrets\[0\] has fewer than 4"),
        (["longer", 1234567], r"secrets\[1\] is a int, not a string or a SecretStr"),
        ("longer", r"secrets is a list of strings or SecretStr, not a str"),
        (7, r"secrets is a list of strings or SecretStr, not a int"),
    ],
)
def test_what_the_user_gives_is_checked(secrets: Any, message: str) -> None:
    llm = LLM(model="openai/gpt-4o-mini", api_key="k")
    agent = Agent(role="R", goal="G", backstory="B", llm=llm)
    makers: list[Callable[[], Any]] = [
        lambda: as_given(secrets),
        lambda: DBOSLLM(llm, secrets=secrets),
        lambda: DBOSAgent(agent_name=unique("a"), orig_agent=agent, secrets=secrets),
    ]
    for make in makers:
        with pytest.raises(DefinitionError, match=message) as raised:
            make()
        assert "abc" not in str(raised.value)


def test_what_the_user_gives_is_found_and_not_shown() -> None:
    llm = LLM(model="openai/gpt-4o-mini", api_key="k")
    agent = DBOSAgent(
        agent_name=unique("given"),
        orig_agent=Agent(role="R", goal="G", backstory="B", llm=llm),
        secrets=["1234", SecretStr("of-the-agent-01")],
    )
    durable = DBOSLLM(llm, secrets=(text for text in ["5678"]))
    assert found([agent, durable]) == {
        "1234": "secrets[0]",
        "of-the-agent-01": "secrets[1]",
        "5678": "secrets[0]",
    }
    assert "1234" not in f"{agent.definition!r}"


class Model(BaseModel):
    password: str


def test_a_model_that_was_seen_is_not_looked_at_again() -> None:
    model = Model(password="of-a-model-0001")
    seen: dict[int, Any] = {}
    assert {found.text for found in secrets_in([model], seen)} == {"of-a-model-0001"}
    assert list(secrets_in({"again": model}, seen)) == []
