"""Turns of a conversation: runs that go on where the last one ended."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from crewai.flow.conversational import ConversationConfig, ConversationState
from crewai.flow.flow import Flow
from dbos import DBOS, SetWorkflowID
from pydantic import Field

from crewai_dbos import DBOSFlow
from crewai_dbos.testing import ModelServer
from flows.conversation import Desk, history, replies
from flows.test_runs import Small
from support.serving import Serve

TURNS = ["Hello", "I want two chairs", "Thanks"]


def test_turns_are_those_of_crewai(serve: Serve) -> None:
    with ModelServer(replies) as server, pytest.MonkeyPatch.context() as patch:
        for key, value in server.env.items():
            patch.setenv(key, value)
        alone = Desk()
        expected = [alone.handle_turn(turn, session_id="s") for turn in TURNS]
        asked = len(server.requests)
    server = serve(replies)
    flow = DBOSFlow(flow_name="desk-alike", orig_flow=Desk)
    assert [flow.handle_turn(turn, session_id="s") for turn in TURNS] == expected
    assert history(flow) == history(alone)
    assert len(history(flow)) == 6
    assert len(server.requests) == asked
    assert DBOS.get_workflow_status("desk-alike/s/3").status == "SUCCESS"  # type: ignore[union-attr]


def test_conversations_do_not_mix_and_any_process_goes_on(serve: Serve) -> None:
    serve(replies)
    flow = DBOSFlow(flow_name="desk-mixed", orig_flow=Desk)
    flow.handle_turn("Hello", session_id="a")
    flow.handle_turn("Good morning", session_id="b")
    flow.handle_turn("I want two chairs", session_id="a")
    assert [said for role, said in history(flow) if role == "user"] == [
        "Hello",
        "I want two chairs",
    ]
    # As a process that was started meanwhile.
    flow.show_as(Desk())
    flow.handle_turn("Thanks", session_id="a")
    assert len(history(flow)) == 6


def test_ids_that_differ_in_their_case_are_two_conversations(serve: Serve) -> None:
    serve(replies)
    flow = DBOSFlow(flow_name="desk-case", orig_flow=Desk)
    for _ in range(2):
        flow.handle_turn("Hello", session_id="Ann")
    flow.handle_turn("Good morning", session_id="ann")
    assert [said for role, said in history(flow) if role == "user"] == ["Good morning"]
    flow.handle_turn("Thanks", session_id="Ann")
    assert len([said for role, said in history(flow) if role == "user"]) == 3


def test_a_turn_is_replayed_from_every_entry(serve: Serve) -> None:
    server = serve(replies)
    flow = DBOSFlow(flow_name="desk-again", orig_flow=Desk)
    flow.handle_turn("Hello", session_id="s")
    expected = flow.handle_turn("I want two chairs", session_id="s")
    told = history(flow)
    steps = DBOS.list_workflow_steps("desk-again/s/2")
    assert [s["function_name"].rpartition("/")[2] for s in steps][-1] == "session#1"
    for step in steps:
        before = len(server.requests)
        fork = DBOS.fork_workflow("desk-again/s/2", step["function_id"] + 1).get_workflow_id()
        assert flow.retrieve(fork).get_result() == expected
        assert history(flow) == told
        later = [s for s in steps if s["function_id"] > step["function_id"]]
        missing = sum((s["output"] or {}).get("kind") == "llm" for s in later)
        assert len(server.requests) - before == missing


def test_a_flow_that_is_no_conversation(launched: None) -> None:
    flow = DBOSFlow(flow_name="no-conversation", orig_flow=Small)
    with pytest.raises(ValueError, match="conversational"):
        flow.handle_turn("Hello")


class Basket(ConversationState):
    cart: list[str] = Field(default_factory=list)


@ConversationConfig(llm="openai/gpt-4o-mini")
class Shop(Flow[Basket]):
    pass


def shopping(shop: Any) -> list[Any]:
    """What the application adds to the state, before and between turns."""
    carts = []
    shop.state.cart.append("pen")
    for said in ("One", "Two", "Three"):
        shop.handle_turn(said, session_id="ann")
        carts.append(list(shop.state.cart))
        shop.state.cart.append(f"after {said}")
    return [*carts, history(shop)]


def test_what_the_application_does_to_the_state_between_turns(serve: Serve) -> None:
    server = serve(replies)
    expected = shopping(Shop())
    assert expected[2] == ["pen", "after One", "after Two"]
    asked = [request.fingerprint for request in server.requests]
    flow = DBOSFlow(flow_name="shop", orig_flow=Shop)
    assert shopping(flow) == expected
    assert [request.fingerprint for request in server.requests[len(asked) :]] == asked
    # Another conversation has nothing of it, nor has this one in another object's state.
    flow.handle_turn("Hello", session_id="bob")
    assert flow.state.cart == []
    flow.handle_turn("Four", session_id="ann")
    assert flow.state.cart == ["pen", "after One", "after Two"]


def test_turns_in_a_workflow_go_on_from_one_another(serve: Serve) -> None:
    server = serve(replies)
    alone = Desk()
    expected = [alone.handle_turn(turn, session_id="s") for turn in TURNS]
    asked = len(server.requests)
    flow = DBOSFlow(flow_name="desk-joined", orig_flow=Desk)

    @DBOS.workflow(name="talks")
    def talk() -> list[Any]:
        return [flow.handle_turn(turn, session_id="s") for turn in TURNS]

    with SetWorkflowID("talk"):
        assert talk() == expected
    assert len(server.requests) == 2 * asked
    assert history(flow) == history(alone)
    for step in DBOS.list_workflow_steps("talk")[1::5]:
        fork = DBOS.fork_workflow("talk", step["function_id"] + 1)
        assert fork.get_result() == expected
        assert history(flow) == history(alone)


def test_flows_in_a_workflow_do_not_share_a_session(serve: Serve) -> None:
    serve(replies)
    shop, help_desk = (DBOSFlow(flow_name=name, orig_flow=Shop) for name in ("buying", "helping"))

    @DBOS.workflow(name="both")
    def both() -> list[int]:
        shop.handle_turn("One", session_id="ann")
        help_desk.handle_turn("Two", session_id="ann")
        return [len(history(flow)) for flow in (shop, help_desk)]

    assert both() == [2, 2]


def test_a_turn_that_fails_in_a_workflow_leaves_nothing_behind(serve: Serve) -> None:
    serve(replies)
    crewais: Any = Shop.handle_turn
    failing = [True]

    class Failing(Shop):
        def handle_turn(self, message: Any, **options: Any) -> Any:
            if message == "Two" and failing.pop():
                self.state.cart.append("half of two")
                raise ValueError("two failed")
            return crewais(self, message, **options)

    flow = DBOSFlow(flow_name="failing", orig_flow=Failing)

    @DBOS.workflow(name="goes on")
    def go_on() -> list[str]:
        flow.handle_turn("One", session_id="ann")
        with contextlib.suppress(ValueError):
            flow.handle_turn("Two", session_id="ann")
        flow.handle_turn("Three", session_id="ann")
        return list(flow.state.cart)

    assert go_on() == []
