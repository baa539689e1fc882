"""Recipe sections of the levers that plugins add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from telltune.errors import shown
from telltune.plugins import load_plugins
from telltune.recipe.validation_messages import explain

if TYPE_CHECKING:
    from telltune.recipe.base import ConfigModel

LEVER_SECTIONS: dict[str, type[ConfigModel]] = {}
"""Section of each lever by its name; `telltune.levers.registry.register_lever` adds to it."""


def read_sections(sections: Any) -> Any:
    """Return the sections under `levers`, each validated and with its defaults.

    Raises:
        ValueError: There is no lever of a name, or a section is invalid.
    """
    if not isinstance(sections, dict):
        return sections
    load_plugins()
    return {name: _read(str(name), values) for name, values in sections.items()}


def _read(name: str, values: Any) -> ConfigModel:
    kind = LEVER_SECTIONS.get(name)
    if kind is None:
        known = f"known levers: {', '.join(LEVER_SECTIONS)}" if LEVER_SECTIONS else "none is loaded"
        raise ValueError(
            f"there is no lever `{shown(name)}` ({known}); install the package that adds it, or "
            "name its module with --plugin"
        )
    try:
        return kind.model_validate({} if values is None else values)
    except ValidationError as error:
        raise ValueError("; ".join(explain(error, kind, f"lever `{name}`"))) from None
