"""A report as one HTML file: what all pages share, filled by a template of their own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from telltune.pages.formats import FORMATS

__all__ = ["REPORT", "render"]

REPORT = "report.html"
"""What a folder's report is called."""

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: Path, **values: object) -> str:
    """Fill a template that extends `page.html.j2`.

    Args:
        template: A Jinja file; what it includes lies beside it or in this package.
        values: By the names that it uses. All text is escaped.
    """
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
    """Vega, Vega-Lite and Vega-Embed as one script, which takes some seconds to bundle."""
    from vl_convert import javascript_bundle

    return javascript_bundle("window.vegaEmbed = vegaEmbed;")
