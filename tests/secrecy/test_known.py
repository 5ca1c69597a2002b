"""What the process knows is not in its log, and a run that is given it says so by name."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.tools import BaseTool

import crewai_dbos
from crewai_dbos import DBOSAgent, DBOSCrew, DefinitionError
from crewai_dbos._secrets import known
from crewai_dbos._secrets.finding import Found
from crewai_dbos.testing import ModelServer, text
from secrecy.forms import FORMS
from support.launching import launched_in
from support.names import unique

logger = logging.getLogger("crewai_dbos")


def new_secret() -> str:
    return f"Q7w{token_hex(9)}Zp"


@pytest.fixture
def secret() -> str:
    """One that the process knows."""
    made = new_secret()
    assert known.tell([Found("a test", made)]) == {made}
    return made


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a handler of the application's writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


class Raw(logging.Handler):
    """A handler that takes records apart itself, as those that write JSON do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        formatted = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.seen.append(f"{vars(record)} {formatted}")


# The log ---------------------------------------------------------------------------


def test_a_message_and_its_arguments(secret: str, written: io.StringIO) -> None:
    logger.warning("Refused %s, %r", secret, {"key": secret})
    logger.warning(f"Refused {secret}")
    logger.warning("%(key)s", {"key": secret})
    logger.warning("%d of %s", 3, "4")
    for form in FORMS.values():
        logger.warning("%s", form(secret))
    lines = written.getvalue().splitlines()
    assert lines[:4] == ["Refused ***, {'key': '***'}", "Refused ***", "***", "3 of 4"]
    assert [name for name, form in FORMS.items() if form(secret) in written.getvalue()] == []


def test_an_exception(secret: str, written: io.StringIO) -> None:
    raw = Raw()
    logger.addHandler(raw)
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            try:
                raise ValueError(f"at postgresql://app:unknown1@db with {secret}") from error
            except ValueError:
                logger.exception("It failed", stack_info=True)
                logger.exception("So did this: %s", secret)
    finally:
        logger.removeHandler(raw)
    told = written.getvalue()
    assert "KeyError: '***'" in told
    assert "ValueError: at postgresql://app:***@db with ***" in told
    assert "Traceback" in told
    assert [part for part in (secret, "unknown1") if part in told + "".join(raw.seen)] == []


def test_an_exception_without_a_secret_stays_as_it_is(written: io.StringIO) -> None:
    raw = Raw()
    logger.addHandler(raw)
    try:
        try:
            raise ValueError("seven")
        except ValueError:
            logger.exception("It failed")
    finally:
        logger.removeHandler(raw)
    assert "ValueError: seven" in written.getvalue()
    assert "ValueError: seven" in raw.seen[0].rpartition("Traceback")[2]


def test_a_log_call_that_is_wrong_is_reported_as_ever(
    written: io.StringIO, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler raises
    logger.warning("%s and %s", "one")
    assert "not enough arguments for format string" in capsys.readouterr().err


def test_other_loggers_are_not_touched(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("app").warning("%s", secret)
    assert secret in caplog.text


def test_the_log_has_one_filter() -> None:
    known.keep_out_of_the_log()
    assert [type(each).__module__ for each in logger.filters].count(known.__name__) == 1


# What is known ---------------------------------------------------------------------


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MOST", 10)
    run = known.OfRun()
    secrets = [new_secret() for _ in range(12)]
    run.look_at({"password": secrets[0]})
    for secret in secrets[1:]:
        known.tell([Found("a test", secret)])
    assert [secret in known.named() for secret in secrets] == [False] * 2 + [True] * 10
    # A run knows its own as long as it goes on.
    assert secrets[0] in run

    known.tell([Found("a test", secrets[2])])
    known.tell([Found("a test", new_secret())])
    assert secrets[2] in known.named()
    assert secrets[3] not in known.named()


def test_the_environment_is_known_as_it_is_and_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_secret(), new_secret()
    monkeypatch.setenv("SHOP_TOKEN", first)
    assert known.hide(first) == "***"
    monkeypatch.setenv("SHOP_TOKEN", second)
    assert known.hide(second) == "***"
    # Programs take a key out of the environment once they have read it.
    monkeypatch.delenv("SHOP_TOKEN")
    assert known.hide(f"{first} {second}") == "*** ***"
    assert known.named()[first] == "SHOP_TOKEN"


# What a run is given ----------------------------------------------------------------


class Shop(BaseTool):
    name: str = "shop"
    description: str = "Buy."
    door_code: str
    api_key: str

    def _run(self) -> str:
        return "bought"


def test_a_run_that_is_given_a_secret_says_so_by_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_llm, of_tool, given, unknown = (new_secret() for _ in range(4))
    with ModelServer(lambda request: text("Hello.")) as server, launched_in(tmp_path):
        llm = LLM(model="openai/gpt-4o-mini", api_key=of_llm, base_url=server.base_url)
        shop = Shop(door_code=unknown, api_key=of_tool)
        agent = Agent(role="R", goal="G", backstory="B", llm=llm, tools=[shop])
        task = Task(description="Say {a}.", expected_output="Words.", agent=agent)
        crew = DBOSCrew(
            crew_name=unique("crew"), orig_crew=Crew(agents=[agent], tasks=[task]), secrets=[given]
        )
        crew.kickoff({"a": unknown})
        assert "contains the value of" not in caplog.text
        crew.kickoff({"a": f"{of_llm} {of_tool}", "b": {"c": [given]}})
    said = [record.message for record in caplog.records if "contains the value" in record.message]
    start, end = "What a kickoff of a crew is given (inputs) contains the value of ", ". It is"
    assert sorted(line.partition(start)[2].partition(end)[0] for line in said) == [
        "api_key of Shop",
        "api_key of the LLM 'gpt-4o-mini'",
        "secrets[0]",
    ]
    assert [secret for secret in (of_llm, of_tool, given) if secret in caplog.text] == []


def test_an_error_message_does_not_show_the_keys_of_what_it_is_about() -> None:
    secret = new_secret()
    llm = LLM(model="openai/gpt-4o-mini", api_key=secret)
    agent = Agent(role="R", goal="G", backstory="B" * 500, llm=llm)
    with pytest.raises(DefinitionError, match="orig_agent must be a crewai Agent") as raised:
        DBOSAgent(agent_name=unique("agent"), orig_agent=llm)  # type: ignore[arg-type]
    assert secret not in str(raised.value)
    with pytest.raises(DefinitionError, match="orig_crew must be") as crew_raised:
        DBOSCrew(crew_name=unique("crew"), orig_crew=agent)  # type: ignore[arg-type]
    assert secret not in str(crew_raised.value)
    with pytest.raises(DefinitionError, match="orig_flow must be") as flow_raised:
        crewai_dbos.DBOSFlow(flow_name=unique("flow"), orig_flow=llm)  # type: ignore[arg-type]
    assert secret not in str(flow_raised.value)
    with pytest.raises(TypeError, match="DBOSLLM wraps") as llm_raised:
        crewai_dbos.DBOSLLM(agent)
    assert secret not in str(llm_raised.value)
