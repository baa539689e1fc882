"""Versions of telltune, also in a checkout that is not installed, and of installed packages."""

from functools import cache
from importlib.metadata import version

VERSION = "0.1.0"

version_of = cache(version)
"""Version of an installed package. Each reading of its metadata takes milliseconds."""
