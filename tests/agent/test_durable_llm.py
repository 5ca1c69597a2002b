"""Attempts at a request, and DBOSLLM without an agent."""

from __future__ import annotations

from typing import Any

import pytest
from crewai.llms.providers.openai.completion import OpenAICompletion
from dbos import DBOS, SetWorkflowID
from pydantic import BaseModel, PrivateAttr

from agent.helpers import clerk, echo, model, note, now, replays, trace
from crewai_dbos import DBOSLLM, DBOSAgent, StepConfig
from crewai_dbos.testing import ModelServer, error, structured, text
from support.names import unique

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


class Delegating(OpenAICompletion):
    """Asks through another LLM inside it, as crewAI's Azure LLM does with ``api="responses"``."""

    _responses_delegate: Any = PrivateAttr(default=None)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._responses_delegate.call(*args, **kwargs)


def test_an_llm_inside_an_llm_belongs_to_one_run_and_is_not_recorded_twice() -> None:
    replies = {"Hello.": [error(500), text("Hello.")], "Goodbye.": [text("Goodbye.")]}

    with ModelServer(lambda request: replies[request.last_user_text].pop(0)) as server:
        inside = model(server)
        llm = Delegating(model="gpt-4o-mini", api_key="sk-test", base_url=server.base_url)
        llm._responses_delegate = inside
        now["llm"] = DBOSLLM(llm, step_config=FAST)
        run_id = unique("delegating")
        with SetWorkflowID(run_id):
            assert just_the_model() == ["Hello.", "between", "Goodbye."]
        # One layer of retries: of the SDK's there would be a second.
        assert len(server.requests) == 3
        names = [step["function_name"] for step in DBOS.list_workflow_steps(run_id)]
        assert names == ["llm#1", "note", "llm#2"]
        assert inside.get_token_usage_summary().successful_requests == 0
        used = now["llm"]._responses_delegate.get_token_usage_summary()
        DBOS.fork_workflow(run_id, 10_000).get_result()
        again = now["llm"]._responses_delegate.get_token_usage_summary()
        assert again.successful_requests == 2 * used.successful_requests == 4


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
