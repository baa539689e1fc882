"""Rules for known causes of failure: their log patterns, who can fix them, and the remedy.

The rules of telltune are in rules.yaml in this folder; files of the same form can be added. The
order of the rules is their rank: a cause precedes its consequences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from telltune.errors import RecipeError
from telltune.recipe.base import ConfigModel

Side = Literal["user", "infrastructure", "unknown"]
_OURS = Path(__file__).parent / "rules.yaml"


class Rule(ConfigModel):
    """A known cause."""

    cause: str = Field(pattern=r"^[a-z][a-z_]*$")
    """Name of the cause."""
    side: Side
    """Who can fix it: the user who started the run, or the operator of the machine."""
    restart: bool = False
    """Whether the same run may succeed when it is restarted."""
    consequence: bool = False
    """Whether this often follows from another cause, which then takes precedence."""
    says: str
    """One-sentence description of the cause."""
    mend: str
    """Remedy."""
    patterns: list[str] = Field(min_length=1)
    """Regular expressions; a line of the log must match at least one."""
    frames: str | None = None
    """Regular expression that the traceback above the line must match, if given."""

    @field_validator("patterns", "frames")
    @classmethod
    def _compile(cls, patterns: list[str] | str | None) -> list[str] | str | None:
        for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
        return patterns

    def matches(self, text: str, frames: str) -> bool:
        """Return whether a line of the log matches the rule.

        Args:
            text: The line.
            frames: Source lines of the traceback above the line, or "".
        """
        if not any(compiled.search(text) for compiled in _compiled(tuple(self.patterns))):
            return False
        return self.frames is None or _compiled((self.frames,))[0].search(frames) is not None


def load_rules(more: Sequence[Path] = ()) -> list[Rule]:
    """Return all rules in order of rank; rules of later files come first.

    Args:
        more: Files of rules in addition to telltune's own.

    Raises:
        RecipeError: A file cannot be read, or a rule is invalid.
    """
    rules = list(_own_rules())
    for path in more:
        rules = [*_read(path), *rules]
    return rules


@cache
def _own_rules() -> list[Rule]:
    return _read(_OURS)


def _read(path: Path) -> list[Rule]:
    import yaml

    try:
        found = TypeAdapter(list[Rule]).validate_python(yaml.safe_load(path.read_text("utf-8")))
    except OSError as error:
        raise RecipeError(f"{path}: the rules cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{path}: rule {where}: {first['msg']}.") from None
    return found


@cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, patterns))
