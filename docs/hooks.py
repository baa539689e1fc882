"""Hooks of MkDocs: write the command line reference, and resolve links to the source.

Links that leave docs/ work in the repository. On the site they lead to `repo_url`, if mkdocs.yml
names one, and are plain text otherwise.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

_LINK = re.compile(
    r"(?<!!)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))+)\]\((?P<target>[\w./-]+)(?:#[\w-]+)?\)"
)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Return the page with its generated parts and with links that work on the site."""
    if page.file.src_uri == "reference/cli.md":
        markdown += command_line()
    folder = posixpath.dirname(page.file.src_uri)

    def resolve(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, link["target"]))
        if path.startswith("docs/"):
            return link[0]
        if not config.repo_url:
            return link["text"]
        return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{path})"

    return _LINK.sub(resolve, markdown)


def command_line() -> str:
    """Return the help of every verb as markdown."""
    import typer
    from typer.cli import get_docs_for_click

    from telltune.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="tell")
    text: str = get_docs_for_click(obj=command, ctx=context, name="tell")
    return text.partition("\n")[2]
