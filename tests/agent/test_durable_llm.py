"""Attempts at a request, and DBOSLLM without an agent."""

from __future__ import annotations

from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel

from agent.helpers import clerk, echo, model, note, now, replays, trace, unique
from crewai_dbos import DBOSLLM, DBOSAgent, StepConfig
from crewai_dbos.testing import ModelServer, error, structured, text

FAST = StepConfig(retries_allowed=True, max_attempts=4, interval_seconds=0.01)


def test_one_layer_of_retries_for_what_can_pass() -> None:
    replies = [error(429, retry_after=0.2), error(500), error(503), text("At last.")]
    with ModelServer(replies) as server:
        agent = DBOSAgent(
            agent_name=unique("patient"), orig_agent=clerk(server), llm_step_config=FAST
        )
        assert agent.kickoff("Hello.").raw == "At last."
        assert len(server.requests) == 4
        arrivals = [request.received_at for request in server.requests]
        assert arrivals[1] - arrivals[0] >= 0.2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_can_not_pass_is_not_tried_again(status: int) -> None:
    with ModelServer(lambda request: error(status)) as server:
        agent = DBOSAgent(
            agent_name=unique("hopeless"), orig_agent=clerk(server), llm_step_config=FAST
        )
        with pytest.raises(Exception, match=r"status|Error|failed|not found"):
            agent.kickoff("Hello.")
        assert len(server.requests) == 1


def test_no_retry_if_told_so() -> None:
    with ModelServer(lambda request: error(500)) as server:
        agent = DBOSAgent(
            agent_name=unique("once"), orig_agent=clerk(server), llm_step_config=StepConfig()
        )
        with pytest.raises(Exception, match=r"status|Error|failed|not found"):
            agent.kickoff("Hello.")
        assert len(server.requests) == 1


@DBOS.workflow()
def just_the_model() -> list[Any]:
    llm = now["llm"]
    return [llm.call("Hello."), note("between"), llm.call("Goodbye.")]


def test_a_durable_llm_records_in_any_workflow_and_is_plain_outside() -> None:
    trace.clear()
    with ModelServer(echo) as server:
        llm = model(server)
        durable = DBOSLLM(llm, step_config=FAST)
        assert isinstance(durable, type(llm))
        assert isinstance(durable, DBOSLLM)
        assert durable.supports_function_calling()
        assert durable.call("Plain.") == llm.call("Plain.")
        now["llm"] = durable
        run_id = unique("model")
        with SetWorkflowID(run_id):
            assert just_the_model() == ["You said: Hello.", "between", "You said: Goodbye."]
        replays(run_id, server)
        used = durable.get_token_usage_summary().successful_requests
        DBOS.fork_workflow(run_id, 10_000).get_result()
        assert durable.get_token_usage_summary().successful_requests == used + 2


def test_an_llm_answers_with_a_model_defined_anywhere() -> None:
    class Local(BaseModel):
        name: str

    with ModelServer(lambda r: structured({"name": "Ada"})) as server:
        now["llm"], now["model"] = DBOSLLM(model(server)), Local
        run_id = unique("local")
        with SetWorkflowID(run_id):
            assert ask_for_model() == "Ada"
        assert DBOS.fork_workflow(run_id, 10_000).get_result() == "Ada"
        assert len(server.requests) == 1


@DBOS.workflow()
def ask_for_model() -> str:
    return str(now["llm"].call("Who?", response_model=now["model"]).name)
