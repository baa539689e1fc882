"""Versions of telltune, also in a checkout that is not installed, and of installed packages."""

from functools import cache

VERSION = "0.1.0"


@cache
def version_of(package: str) -> str:
    """Return the version of an installed package; reading its metadata takes milliseconds.

    Raises:
        PackageNotFoundError: The package is not installed.
    """
    from importlib.metadata import version

    return version(package)
