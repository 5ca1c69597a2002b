"""A browser without JavaScript: the forms of a page, filled in and sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from starlette.testclient import TestClient


@dataclass
class Form:
    """A form: where it goes, what its fields hold, and its buttons by their texts."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)

    def send(self, client: TestClient, button: str, **changed: str) -> Any:
        """Press `button`, with what is `changed` in the fields."""
        unknown = changed.keys() - self.fields.keys()
        assert not unknown, (unknown, self.fields)
        name, value = self.buttons[button]
        data = {**self.fields, **changed, **({name: value} if name else {})}
        # A browser ends lines so.
        sent = {n: text.replace("\n", "\r\n") for n, text in data.items()}
        return client.request(self.method, self.action, data=sent)


class Page(HTMLParser):
    """What is on a page.

    Attributes:
        forms: Its forms.
        text: What people read.
        tags: Every tag with its attributes.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._name: str | None = None
        self._is_chosen = False
        self._button: tuple[str, str] | None = None
        self._said = ""
        self.feed(html)

    def form(self, button: str) -> Form:
        """The form that has this button."""
        return next(form for form in self.forms if button in form.buttons)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag == "form":
            self.forms.append(Form(given["action"], given["method"]))
        elif tag == "input":
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag in ("textarea", "select"):
            self._name, self._is_chosen = given["name"], tag == "textarea"
            self.forms[-1].fields[self._name] = ""
        elif tag == "option" and self._name is not None:
            # A browser shows, and sends, the first option where none is selected.
            if "selected" in given or not self._is_chosen:
                self.forms[-1].fields[self._name] = given.get("value", "")
                self._is_chosen = True
        elif tag == "button":
            self._button, self._said = (given.get("name", ""), given.get("value", "")), ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("textarea", "select"):
            self._name = None
        elif tag == "button" and self._button is not None:
            self.forms[-1].buttons[self._said.strip()] = self._button
            self._button = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._button is not None:
            self._said += data
        if self._name is not None and self.tags[-1][0] == "textarea":
            # The first line break of one is no part of it.
            self.forms[-1].fields[self._name] += data.removeprefix("\n")
