"""Each block of each page is run by a test, or is an excerpt of what there is."""

from __future__ import annotations

import ast
import builtins
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pages.blocks import ROOT, Block, all_blocks, blocks, pages

RUN = ("python",)
"""Languages whose blocks a test asks for."""

COMMANDS = ("bash", "console")
"""Those of commands: tests/pages/test_commands.py."""

SHOWN = ("text", "nginx")
"""Those that nothing here can check."""

ALL = [block for page in pages() for block in all_blocks(page)]


def asked_for() -> Iterator[tuple[str, str, str | None]]:
    """The arguments of each call of `blocks` in the tests."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        source = file.read_text(encoding="utf-8")
        if "pages.blocks" not in source or file == Path(__file__):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "blocks":
                given = [ast.literal_eval(each) for each in node.args]
                named = {each.arg: ast.literal_eval(each.value) for each in node.keywords}
                yield _arguments(*given, **named)


def _arguments(
    page: str, language: str = "python", section: str | None = None
) -> tuple[str, str, str | None]:
    return page, language, section


def test_every_block_is_asked_for_by_a_test() -> None:
    wanted = list(asked_for())
    left = [
        str(block)
        for block in ALL
        if (block.language in RUN or is_applied(block))
        and not block.is_excerpt
        and not any(
            (page, language) == (block.page, block.language) and section in (None, block.section)
            for page, language, section in wanted
        )
    ]
    assert not left, f"no test runs {', '.join(left)}: ask for them with pages.blocks.blocks"


def test_what_a_test_asks_for_is_there() -> None:
    for page, language, section in asked_for():
        assert blocks(page, language, section), (page, language, section)


def test_every_block_has_a_language_that_something_checks() -> None:
    checked = {*RUN, *COMMANDS, *SHOWN, "diff", "yaml", "dockerfile"}
    assert [str(block) for block in ALL if block.language not in checked] == []


# Excerpts ------------------------------------------------------------------------------------


def of(*languages: str) -> list[Any]:
    return [pytest.param(each, id=str(each)) for each in ALL if each.language in languages]


EXCERPTS = [pytest.param(each, id=str(each)) for each in ALL if each.is_excerpt]


@pytest.mark.parametrize("block", EXCERPTS)
def test_the_names_of_an_excerpt_are_there(block: Block) -> None:
    """It is Python, and what it uses is imported, made in it or in a block before it."""
    known: set[str] = set(vars(builtins))
    for each in all_blocks(block.page):
        if each.language != "python" or each.line > block.line:
            continue
        tree = ast.parse(each.text)
        imports_are_there(tree)
        known |= {node.id for node in ast.walk(tree) if is_made(node)}
        known |= {
            (alias.asname or alias.name).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        known |= {node.name for node in ast.walk(tree) if isinstance(node, DEFINING)}
        known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    used = {node.id for node in ast.walk(ast.parse(block.text)) if is_used(node)}
    assert used <= known


DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_made(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def is_used(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def imports_are_there(tree: ast.AST) -> None:
    """What is imported of the packages that a page is about; not of its own example."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name):
                    importlib.import_module(alias.name)


def _is_ours(module: str | None) -> bool:
    return str(module).partition(".")[0] in ("crewai", "crewai_dbos", "dbos")


def is_applied(block: Block) -> bool:
    """It names the file that it changes: a test applies it to that."""
    return block.language == "diff" and block.text.startswith("--- ")


@pytest.mark.parametrize("block", [each for each in of("diff") if not is_applied(*each.values)])
def test_a_diff_is_python_before_and_after(block: Block) -> None:
    for left_out in "+-":
        lines = [line[1:] for line in block.text.splitlines() if line[:1] != left_out]
        imports_are_there(ast.parse("\n".join(lines)))


@pytest.mark.parametrize("block", of("yaml", "dockerfile"))
def test_a_manifest_is_a_part_of_an_example(block: Block) -> None:
    files = [each for each in (ROOT / "examples").rglob("*") if each.is_file()]
    assert any(
        block.text in each.read_text(encoding="utf-8")
        for each in files
        if each.suffix in (".yaml", "") and "__pycache__" not in each.parts
    )
    if block.language == "yaml":
        yaml.safe_load(block.text)
