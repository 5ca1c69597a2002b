"""A turn of a conversation that waits for a person."""

from __future__ import annotations

from crewai.flow.flow import listen

import crewai_dbos
from crewai_dbos import DBOSFlow, People
from crewai_dbos.control import Reply
from flows import conversation
from flows.conversation import history, replies
from people.conftest import Called, Desk
from support.names import unique
from support.serving import Serve


class Shop(conversation.Desk):
    @listen("order")
    def take_order(self) -> str:
        return str(crewai_dbos.ask("May they have them?"))


def test_the_next_turn_begins_when_it_has_ended(serve: Serve, desk: Desk) -> None:
    """Also if it has been left to its row: what was said in it is not lost."""
    serve(replies)
    name = unique("shop")
    shop = DBOSFlow(flow_name=name, orig_flow=Shop, people=People(linger=0.1))
    first = Called(lambda: shop.handle_turn("I want two chairs", session_id="ann"))
    desk.parked(f"{name}/ann/1")
    second = Called(lambda: shop.handle_turn("Thanks", session_id="ann"))
    desk.answer(f"{name}/ann/1", Reply("Yes"))
    assert first.result() == "Yes"
    second.result()
    said = [said for role, said in history(shop) if role == "user"]
    assert said == ["I want two chairs", "Thanks"]
