"""A crew that writes mails, and a model that has it write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_dbos import DBOSCrew, People
from crewai_dbos.testing import Reply, Request, ToolCall, text, tool_calls
from support.names import unique


class Post:
    """Where mails go to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def tools(self) -> Any:
        @tool("send_email")
        def send_email(to: str, body: str, copies: int = 1) -> str:
            """Send an email."""
            self.sent.append({"to": to, "body": body, "copies": copies})
            return f"sent to {to}"

        return [send_email]


def writing(*mails: dict[str, Any]) -> Callable[[Request], Reply]:
    """A model that writes these mails, one after the other, and then tells of what came of it."""

    def script(request: Request) -> Reply:
        done = len(request.tool_results)
        if done < len(mails):
            return tool_calls(ToolCall("send_email", mails[done]))
        told = " | ".join(result for _, result in request.tool_results)
        return text(f"{told} [{request.last_user_text[:40]}]")

    return script


def office(post: Post, people: People | None = None, role: str = "Clerk", **task: Any) -> DBOSCrew:
    """A crew with one clerk who writes mails."""
    tools = post.tools()

    def build() -> Crew:
        clerk = Agent(role=role, goal="Write", backstory="Old.", llm="gpt-4o-mini", tools=tools)
        job = Task(description="Write to {who}.", expected_output="A receipt.", agent=clerk, **task)
        return Crew(agents=[clerk], tasks=[job])

    return DBOSCrew(crew_name=unique("office"), orig_crew=build, people=people)
