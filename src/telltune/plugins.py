"""Plugins: modules of other packages that add methods, metrics and file formats.

A plugin registers what it adds when it is imported. It is found in two ways:

- An installed package names it as an entry point of the group `telltune.plugins`.
- The environment variable `TELLTUNE_PLUGINS` lists modules, separated by commas. `tell --plugin`
  adds to it, so that processes which telltune starts have the same plugins. Modules in the working
  directory are found too.

docs/guides/plugins.md has an example.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from importlib.metadata import entry_points

from telltune.errors import RecipeError

_GROUP = "telltune.plugins"
_VARIABLE = "TELLTUNE_PLUGINS"


def add_plugin(module: str) -> None:
    """Load a module as a plugin, here and in processes that this one starts.

    Raises:
        RecipeError: The module cannot be imported.
    """
    _load(module)
    named = _named_modules()
    if module not in named:
        os.environ[_VARIABLE] = ",".join([*named, module])


@cache
def load_plugins() -> None:
    """Load all plugins; a second call does nothing.

    Raises:
        RecipeError: A plugin cannot be imported.
    """
    installed = [point.value for point in entry_points(group=_GROUP)]
    for module in (*installed, *_named_modules()):
        _load(module)


def _named_modules() -> list[str]:
    return [name.strip() for name in os.environ.get(_VARIABLE, "").split(",") if name.strip()]


def _load(module: str) -> None:
    # The installed command does not look in the working directory, as `python -m` does.
    if "" not in sys.path:
        sys.path.append("")
    try:
        importlib.import_module(module)
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"the plugin `{module}` cannot be loaded ({type(error).__name__}: {error}); fix or "
            f"uninstall it, or remove it from --plugin and {_VARIABLE}."
        ) from error
