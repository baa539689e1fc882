"""File and folder handling of `tell diagnose`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from telltune.errors import DataError, RecipeError
from telltune.inference.api_client import api_client
from telltune.recipe import ApiSpec, explain
from telltune.research.diagnosis.compression import Filters, compress
from telltune.research.diagnosis.diagnose import UNKNOWN, diagnose
from telltune.research.diagnosis.past import Past, past_file
from telltune.research.diagnosis.rules import load_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from telltune.research.streams.top import Top

_LOGS = ("*.log", "*.out", "*.err", "stderr", "stdout", "failures/*.txt")
_MOST_BYTES = 2**26
"""Maximum number of bytes read from the end of a log."""
_ASKS = "A training run failed. Name the cause that its log tells of, nothing else."


def diagnose_logs(
    place: Path,
    *,
    rules: Sequence[Path] = (),
    past: Path | None = None,
    model: str | None = None,
) -> list[dict[str, Any]]:
    """Diagnose a log, or each log of a folder.

    Args:
        place: A log file, or a folder with logs.
        rules: Files with additional rules.
        past: File of past failures; defaults to the one in the cache.
        model: Model to ask if nothing else gives a cause; see `tell diagnose --help`.

    Returns:
        One record per log, those with a known cause first.

    Raises:
        DataError: There is no log, or a file cannot be read.
        RecipeError: A rule or the address of the model is invalid.
    """
    known = load_rules(rules)
    filters, remembered = Filters(), Past(past or past_file())
    ask = None if model is None else _asker(model, [rule.cause for rule in known])
    found = []
    for path in _logs(place):
        told = diagnose(_lines(path), rules=known, filters=filters, past=remembered, ask=ask)
        evidence = [{"line": e.number, "text": e.text} for e in told.evidence]
        found.append({"log": str(path), **asdict(told), "evidence": evidence})
    return sorted(found, key=lambda record: record["cause"] == UNKNOWN)


def keep_healthy(place: Path) -> int:
    """Add a healthy run's logs to the filters and return the number of new line templates."""
    filters = Filters()
    return sum(filters.learn(_lines(path)) for path in _logs(place))


def keep_past(log: Path, cause: str, past: Path | None) -> None:
    """Store a log with its known cause among the past failures.

    Args:
        log: Log file of the failed run.
        cause: Name of the cause: letters, digits and underscores.
        past: File of past failures; defaults to the one in the cache.

    Raises:
        DataError: The log cannot be read.
        RecipeError: The cause is not one word.
    """
    if not cause.replace("_", "").isalnum():
        raise RecipeError(f"--remember {cause}: the cause must be one word, such as disk_full.")
    Past(past or past_file()).add(compress(_lines(log), Filters()), cause)


def _logs(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"{place}: no such log or folder.")
    found = sorted({path for kind in _LOGS for path in place.rglob(kind) if path.is_file()})
    if not found:
        raise DataError(
            f"{place}: no log in this folder ({', '.join(_LOGS)}); pass the file that holds the "
            "run's output."
        )
    return found


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _MOST_BYTES))
            return file.read().decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise DataError(f"{path}: the log cannot be read: {error.strerror}.") from None


def _asker(model: str, causes: Sequence[str]) -> Callable[[str, Sequence[str]], str | None]:
    """Return a function that asks a local model or one behind an API; see `tell diagnose --help`.

    Raises:
        RecipeError: The address has no model name, is invalid, or names a variable that is not set.
    """
    from telltune.research.streams.top import Endpoint, local_model

    asked: Top = (
        Endpoint(api_client(_api_spec(model)), causes, _ASKS)
        if model.startswith(("http://", "https://"))
        else local_model(model, None, causes, _ASKS)
    )

    def ask(text: str, _: Sequence[str]) -> str | None:
        found = asked.label(text)
        if found.failure:
            logging.getLogger(__name__).warning("the model names no cause: %s", found.failure)
        return found.label

    return ask


def _api_spec(address: str) -> ApiSpec:
    """Return the model of an address such as http://HOST/v1#NAME or http://HOST/v1#NAME#KEY."""
    url, name, variable = [*address.split("#"), "", ""][:3]
    try:
        return ApiSpec(url=url, model=name, api_key_env=variable or None)
    except ValidationError as error:
        told = "; ".join(explain(error, ApiSpec, "address"))
        raise RecipeError(
            f"--model {url}#{name}: {told}; give URL#NAME, or URL#NAME#VARIABLE with the "
            "environment variable of the API key."
        ) from None
