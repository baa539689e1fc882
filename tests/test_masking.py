"""Secrets appear neither in messages nor in written files."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.errors import DataError, RecipeError, TellError
from telltune.masking import masked, secret_in
from telltune.recipe import recipe_from_dict

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "hf_" + "kL0mNopQrS" * 3 + "tUvW"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"403 for token {TOKEN}.", "403 for token ***."),
        ("https://me:pass-word@host/a", "https://***@host/a"),
        ("https://ghp_token@host/a", "https://***@host/a"),
        ("https://host/a?token=abc&x=1", "https://host/a?token=***&x=1"),
        (
            "https://cdn/x?Expires=1&X-Amz-Signature=0af&X-Amz-Credential=AK/1#top",
            "https://cdn/x?Expires=1&X-Amz-Signature=***&X-Amz-Credential=***#top",
        ),
        ("https://host/a?api_key=1", "https://host/a?api_key=***"),
    ],
)
def test_a_secret_is_masked_and_the_rest_stays(text: str, wanted: str) -> None:
    assert masked(text) == wanted
    assert secret_in(text)
    assert masked(wanted).count("***") == wanted.count("***")


@pytest.mark.parametrize(
    "text",
    [
        "mail me@host",
        "hf_short",
        "https://host/@user/a?tokens_left=3x",
        "a: b@c",
        "x://y/z?q=1",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text
    assert secret_in(text) is None


def test_a_token_of_the_environment_is_known_whatever_it_looks_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "denied: open sesame"
    assert masked(text) == text
    monkeypatch.setenv("HF_TOKEN", "open sesame")
    assert masked(text) == "denied: ***"
    monkeypatch.setenv("HF_TOKEN", "open")  # too short to be distinguished from a word
    assert masked(text) == text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://me:pass-word@host/v1", r"a password or token in an address.*`api_key_env`"),
        ("https://host/v1/api_key&sig=0123", r"a secret in an address \(`sig=\.\.\.`\)"),
        (f"https://host/{TOKEN}", "a Hugging Face token.*set HF_TOKEN"),
        ("https://host/open-sesame", "the value of HUGGING_FACE_HUB_TOKEN"),
    ],
)
def test_a_recipe_with_a_secret_is_refused_with_its_kind(
    url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "open-sesame")
    with pytest.raises(RecipeError, match=told) as refused:
        recipe_from_dict({"task": "equation", "teacher": {"url": url, "model": "large"}})
    assert ("HF_TOKEN" in str(refused.value)) is ("Hugging" in told)
    assert "pass-word" not in str(refused.value)


def test_errors_mask_what_they_quote() -> None:
    for kind in (TellError, DataError):
        assert str(kind(f"hub: {TOKEN}")) == "hub: ***"


def test_no_run_writes_a_token_down(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    toy_recipe["mixture"]["passes"] = 1
    telltune.fit(toy_recipe, tmp_path / "out" / "fit")
    telltune.evaluate(tmp_path / "out" / "fit", predictions=tmp_path / "out" / "answers.jsonl")
    with pytest.raises(TellError):
        telltune.fit(toy_recipe | {"model": f"https://me:{TOKEN}@host/m"}, tmp_path / "out" / "no")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    said = caplog.text + "".join(capsys.readouterr())
    assert TOKEN not in said
