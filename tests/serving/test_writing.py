"""An answer in pieces is the answer that `predict` returns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from telltune.data.anchor import Anchor
from telltune.fitting.predictor import Predictor
from telltune.serving.writing import Writing

ANCHOR = Anchor("Name the shape.", "The shape is:")
TEXTS = [
    *("ball", "  It rains, and the wind is cold.\n", "Reykjavík ☃ 𝔘", "5 < 7", "", "\n \n"),
    *("<think>\nround, so\n</think>\n\nball", "<think> round, and so on", "<thin ball", "<think>"),
    *("The shape is: ball", "The  shape is:\nball", "The shape", "The shape was a ball"),
    *("hm, round\n</think>\n\nThe shape is: ball", "one END two", "one EN", "EN END"),
]
STOPS = ("END", "\n\n")


def pieces(predictor: Predictor, ids: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    writing, found = Writing(predictor, stops), []
    for n in range(1, len(ids) + 1):
        found.append(writing.piece(ids[:n], ended=n == len(ids)))
        if writing.stopped:
            break
    return found


@pytest.fixture(params=["plain", "opened"])
def predictor(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Predictor:
    if request.param == "opened":
        # Prompts end in an open thinking block.
        template = str(tiny_tokenizer.chat_template)
        tiny_tokenizer.chat_template = template.replace("assistant\n' }}", "assistant\n<think>' }}")
    return Predictor(None, tiny_tokenizer, ANCHOR, 99)


def ids_of(predictor: Predictor, text: str) -> list[int]:
    return list(predictor.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_final_text(predictor: Predictor, text: str) -> None:
    ids = ids_of(predictor, text)
    assert "".join(pieces(predictor, ids)) == (predictor.final_texts([ids])[0] if ids else "")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_end_before_the_first_stop_text(predictor: Predictor, text: str) -> None:
    ids = ids_of(predictor, text)
    [whole] = predictor.final_texts([ids])
    ends = [at for stop in STOPS if (at := whole.find(stop)) >= 0]
    wanted = whole[: min(ends)].rstrip() if ends else whole
    assert "".join(pieces(predictor, ids, STOPS)) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(parts=strategies.lists(strategies.sampled_from([*TEXTS, "<think>", "</think>", "é", " "])))
def test_whatever_comes_together_is_streamed_as_it_is_returned(
    predictor: Predictor, parts: list[str]
) -> None:
    ids = ids_of(predictor, "".join(parts))
    if ids:
        assert "".join(pieces(predictor, ids)) == predictor.final_texts([ids])[0]


def test_text_comes_as_soon_as_it_is_certain(tiny_tokenizer: Any) -> None:
    predictor = Predictor(None, tiny_tokenizer, ANCHOR, 99)
    said = "It rains, and the wind is cold."
    found = pieces(predictor, ids_of(predictor, said))
    assert sum(map(bool, found)) > len(found) / 2
    thought = pieces(predictor, ids_of(predictor, f"<think>It is cold.</think>{said}"))
    assert "".join(thought) == said
    assert sum(map(bool, thought)) > 5


def test_an_answer_behind_a_marker_comes_at_its_end(tiny_tokenizer: Any) -> None:
    predictor = Predictor(None, tiny_tokenizer, None, 99, answer_after="####")
    ids = ids_of(predictor, "It is round. #### box #### ball")
    *before, last = pieces(predictor, ids)
    assert (set(before), last) == ({""}, "ball")
