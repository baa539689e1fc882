"""Render reports as one HTML file from templates that extend a common page."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from telltune.errors import StorageError
from telltune.html_report.formats import FORMATS
from telltune.storage import cache_folder, cached_json, content_key

REPORT = "report.html"
"""File name of a folder's report."""

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: Path, **values: object) -> str:
    """Fill a template that extends `page.html.j2`. All text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FORMATS
    return environment.get_template(template.name).render(vega=_vega(), **values)


@cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; bundling takes some seconds, once."""
    from vl_convert import javascript_bundle

    script = "window.vegaEmbed = vegaEmbed;"
    key = content_key(version("vl-convert-python"), script)
    with suppress(StorageError):  # a report does not need the cache
        path = cache_folder("vega") / f"{key}.json"
        return str(cached_json(path, lambda: javascript_bundle(script)))
    return javascript_bundle(script)
