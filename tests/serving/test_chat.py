"""A conversation in the terminal keeps its turns and answers as `predict` does."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from asking import SHAPES
from telltune.answering import predict_examples
from telltune.cli import main
from telltune.data.examples import Example, Message
from telltune.serving.chat import chat
from telltune.serving.models import load_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that calls a verb with lines on standard input."""

    def call(*words: object, lines: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tell", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_a_conversation_is_answered_turn_by_turn_until_a_reset(rambling: Path) -> None:
    [model] = load_models([rambling], most=1)
    written: list[str] = []
    lines = [SHAPES[0], "", SHAPES[1], "/reset", SHAPES[0], "/exit", SHAPES[2]]
    chat(model, lines, written.append, system="Be brief.")
    system = Message("system", "Be brief.")
    [first] = predict_examples(rambling, [Example(SHAPES[0], "", history=(system,))])
    turns = (system, Message("user", SHAPES[0]), Message("assistant", first))
    [second] = predict_examples(rambling, [Example(SHAPES[1], "", history=turns)])
    assert "".join(written) == f"{first}\n{second}\n{first}\n"
    # The answers came in pieces.
    assert len(written) > 10


def test_a_conversation_beyond_the_context_is_told_and_goes_on(rambling: Path) -> None:
    [model] = load_models([rambling], most=1)
    written: list[str] = []
    chat(model, ["item " * 600, SHAPES[0]], written.append)
    told, answer = "".join(written).splitlines()[:2]
    assert "context is 512 tokens" in told
    assert "/reset" in told
    assert answer == telltune.predict(rambling, [SHAPES[0]])[0].splitlines()[0]


def test_lines_of_standard_input_are_answered(
    shapes: Path, fitted: Callable[..., Path], tell: Any
) -> None:
    code, out, _ = tell("chat", shapes, lines=(SHAPES[0], "/reset", SHAPES[2]))
    assert (code, out.split()) == (0, telltune.predict(shapes, [SHAPES[0], SHAPES[2]]))
    baseline = fitted("linear", method="tfidf_linear")
    assert tell("chat", baseline, lines=(SHAPES[0],))[:2] == (0, "ball\n")


def test_serving_without_its_packages_says_what_to_install(
    shapes: Path, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, out, complaint = tell("serve", shapes)
    assert (code, out) == (2, "")
    assert complaint == ("error: `tell serve` needs a web server: pip install 'telltune[serve]'.\n")
