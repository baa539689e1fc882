"""`tell diagnose` reads files and folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from telltune.cli.app import app
from telltune.errors import DataError, RecipeError
from telltune.research.diagnosis.command import diagnose_logs, keep_healthy, keep_past
from telltune.storage import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

    from chat_server import ChatServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.log").write_text("nothing much\n")
    (tmp_path / "run" / "b.err").write_text("x\nOSError: [Errno 28] No space left on device\n")
    return tmp_path / "run"


def test_every_log_of_a_folder_is_told_of_and_known_causes_first(folder: Path) -> None:
    ran = CliRunner().invoke(app, ["diagnose", str(folder), "--json"])
    first, second = json.loads(ran.stdout)["logs"]
    assert (first["cause"], first["side"], first["by"]) == ("disk_full", "infrastructure", "rule")
    assert first["evidence"][0]["line"] == 2
    assert second["cause"] == "unknown"
    shown = CliRunner().invoke(app, ["diagnose", str(folder / "b.err")]).stdout
    assert "disk full (infrastructure)" in shown
    assert "will most likely fail again" in shown
    shown = CliRunner().invoke(app, ["diagnose", str(folder / "a.log")]).stdout
    assert "contains no known cause" in shown
    assert "After a restart" not in shown


def test_what_was_remembered_is_known_the_next_time(folder: Path) -> None:
    log = folder / "a.log"
    log.write_text("the pump of rack 7 stopped, water everywhere\n")
    keep_past(log, "flood", folder / "past.jsonl")
    [told] = diagnose_logs(log, past=folder / "past.jsonl")
    assert (told["cause"], told["by"]) == ("flood", "past failure")
    with pytest.raises(RecipeError, match="must be one word"):
        keep_past(log, "much water", folder / "past.jsonl")


def test_lines_of_healthy_runs_are_no_evidence(folder: Path) -> None:
    (folder / "good.txt").write_text("nothing much\nConnection closed by peer\n")
    assert keep_healthy(folder / "good.txt") == 2
    (folder / "a.log").write_text("Connection closed by peer\n")
    [told] = diagnose_logs(folder / "a.log")
    assert told["cause"] == "unknown"


def test_secrets_are_neither_shown_nor_stored_nor_sent(folder: Path, server: ChatServer) -> None:
    token = "hf_" + "a1B2" * 9
    log, past = folder / "a.log", folder / "past.jsonl"
    # The second password ends behind the end of what is kept of a line.
    address = f"{'x' * 380} https://joe:pass{'word' * 9}@hub.example/y"
    log.write_text(f"login with {token} at https://joe:password@hub.example/x\n{address}\n")
    [told] = diagnose_logs(log, model=f"{server.url}#large")
    keep_past(log, "flood", past)
    keep_healthy(log)
    assert told["evidence"][0]["text"] == "login with *** at https://***@hub.example/x"
    assert "login with *** at" in server.seen[0]["messages"][-1]["content"]
    filters = [path.read_text() for path in cache_folder("diagnosis").rglob("*.json")]
    for text in (json.dumps(told), json.dumps(server.seen), past.read_text(), *filters):
        assert "***" in text
        assert "hf_" not in text
        assert "pass" not in text


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such log or folder"):
        diagnose_logs(tmp_path / "none")
    with pytest.raises(DataError, match="no log in this folder"):
        diagnose_logs(tmp_path)
    (tmp_path / "a.log").write_text("x")
    with pytest.raises(RecipeError, match="give URL#NAME, or URL#NAME#VARIABLE"):
        diagnose_logs(tmp_path / "a.log", model="http://localhost:1/v1")


@pytest.mark.parametrize(
    ("key", "told"), [("sk-SECRET", "not the key itself"), ("SECRETkey", "the variable is not set")]
)
def test_a_key_in_place_of_a_variables_name_is_not_repeated(
    folder: Path, key: str, told: str
) -> None:
    with pytest.raises(RecipeError, match=told) as error:
        diagnose_logs(folder, model=f"http://localhost:1/v1#large#{key}")
    assert "SECRET" not in str(error.value)
