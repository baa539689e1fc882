"""Known causes: what a log says when they struck, whose they are, and what mends them.

Rules are data: those that come with telltune are in rules.yaml beside this file, and a file of the
same form can be added. Their order is their rank: a cause stands before what it brings about.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from telltune.errors import RecipeError
from telltune.recipe.part import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Rule", "Side", "load_rules"]

Side = Literal["user", "infrastructure", "unknown"]
_OURS = Path(__file__).parent / "rules.yaml"


class Rule(Part):
    """A known cause."""

    cause: str = Field(pattern=r"^[a-z][a-z_]*$")
    """Its name."""
    side: Side
    """Who can mend it: whoever wrote and started the run, or whoever runs the machine."""
    restart: bool = False
    """Whether the same run, started again, may well go through."""
    consequence: bool = False
    """Whether it often follows from another cause, which then counts."""
    says: str
    """What it is, in a sentence."""
    mend: str
    """What to do."""
    patterns: list[str] = Field(min_length=1)
    """Regular expressions, of which a line of the log has to match one."""
    frames: str | None = None
    """One that a line of the traceback above it has to match: whose code it came through."""

    @field_validator("patterns", "frames")
    @classmethod
    def _compile(cls, patterns: list[str] | str | None) -> list[str] | str | None:
        for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is no regular expression: {error}") from None
        return patterns

    def matches(self, text: str, frames: str) -> bool:
        """Whether a line says this.

        Args:
            text: The line.
            frames: The traceback above it, or "".
        """
        if not any(compiled.search(text) for compiled in _compiled(tuple(self.patterns))):
            return False
        return self.frames is None or _compiled((self.frames,))[0].search(frames) is not None


def load_rules(more: Sequence[Path] = ()) -> list[Rule]:
    """All rules by rank; those of later files stand before those of earlier ones.

    Args:
        more: Files of rules beside telltune's own.

    Raises:
        RecipeError: A file is not there, or a rule is not right.
    """
    rules: list[Rule] = []
    for path in (_OURS, *more):
        rules = [*_read(path), *rules]
    return rules


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
