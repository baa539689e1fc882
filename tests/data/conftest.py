"""Fixtures for tests of data."""

from __future__ import annotations

import pytest

from telltune.data.encoding import Encoder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of texts in each call of the tokenizer."""
    counted: list[int] = []
    tokenize = Encoder._tokenize

    def counting(self: Encoder, texts: list[str]) -> list[list[int]]:
        counted.append(len(texts))
        return tokenize(self, texts)

    monkeypatch.setattr(Encoder, "_tokenize", counting)
    return counted
