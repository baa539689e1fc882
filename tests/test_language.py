"""Texts follow the rules of CONTRIBUTING.md that a program can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from telltune.cli import app

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for part in ("src", "tests", "benchmarks") for path in sorted((ROOT / part).rglob("*.py"))
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

WIDTH = 100
MOST_WORDS = 30


def docstrings(path: Path) -> list[str]:
    """Return all docstrings of a file, including those of fields."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [node.value for node in nodes if isinstance(node, ast.Expr)]
    return [
        one.value for one in found if isinstance(one, ast.Constant) and isinstance(one.value, str)
    ]


def test_docstrings_are_no_fragments() -> None:
    opening = re.compile(r"(?:^|\n\s+\w+: )(?:Of|To be|What|Whose) ")
    fragments = {
        str(path.relative_to(ROOT)): text
        for path in SOURCES
        for text in docstrings(path)
        if opening.search(text)
    }
    assert fragments == {}


def prose(page: Path) -> list[str]:
    """Return paragraphs and list items, without code, tables, headings and HTML."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text)
    return [b for b in blocks if b.strip() and not re.match(r"\s*(?:[#|<:!\[]|---)", b)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_pages_are_short(page: Path) -> None:
    lines = [line for block in prose(page) for line in block.splitlines()]
    # A link cannot be broken.
    long = [line for line in lines if len(line) > WIDTH and " " in line.strip().lstrip("-* ")]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_of_pages_are_short(page: Path) -> None:
    long = []
    for block in prose(page):
        text = re.sub(r"`[^`]*`", "Code", re.sub(r"\]\([^)]*\)", "]", " ".join(block.split())))
        for sentence in re.split(r"(?<=[.!?:;])[)\"*]* (?=telltune|[A-Z0-9\[`*(\"])|; ", text):
            words = [word for word in sentence.split() if re.search(r"[A-Za-z]", word)]
            if len(words) > MOST_WORDS:
                long.append(sentence)
    assert long == []


def test_help_shows_no_types_such_as_list_of_str() -> None:
    command: Any = typer.main.get_command(app)
    for name, verb in {"tell": command, **command.commands}.items():
        text = verb.get_help(typer.Context(verb, info_name=name))
        assert re.findall(r"\S*\w\[\w+[\]|]\S*", text) == [], name
        arguments = text.partition("Arguments:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^ {2}(?! |[A-Z|]+(?: |$)).*", arguments, re.MULTILINE) == [], name
