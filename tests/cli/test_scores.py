"""Files of examples are scored with the columns that a fit would guess."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.testing import CliRunner

from telltune.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_columns_of_a_file_are_guessed_and_named(
    write_jsonl: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    rows = [{"body": f"item {n}", "team": ("ball", "box")[n % 2]} for n in range(8)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = [
        "score",
        path,
        "--out",
        tmp_path / "out",
        "--folds",
        99,
        "--set",
        f"model={tiny_model}",
    ]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert f"The columns body → team of {path} are guessed." in done.stderr
    assert "8 different prompts" in str(done.exception)
