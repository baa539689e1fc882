"""Multiple-choice rows: options become lettered lines of the prompt, and the answer a letter."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from telltune.data.fields import Fields, RowRefusedError, is_blank, is_number
from telltune.data.turns import MEDIA
from telltune.errors import shown

OPTION_KEYS = ("choices", "options", "endings")
MAX_OPTIONS = 26
_INDEX = re.compile(r"[0-9]{1,3}(\.0)?")
# Possible prefix of an option with the label X: "X. ", "X: ", "X) " or "(X) ".
_LEAD = r"\(?{}(?:[.:]\s+|\)\s*)"
# Text before an option on its line of a prompt, such as "A. ", "(2) ", "- " or "Option 1: ".
_BEFORE = re.compile(r"[-*•([]?\s*((option|choice|answer)\s+)?\w{0,2}[.:)\]]*\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """Options of one question.

    Attributes:
        labels: Labels of the row, or letters if it has none.
        texts: Texts of the options without labels.
    """

    key: str
    labels: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def in_columns(self) -> bool:
        """Whether each option has a column of its own, named by a letter."""
        return self.key == "A"

    @property
    def lines(self) -> str:
        """Options as lines such as "A. Paris"."""
        return "\n".join(
            f"{label}. {text}" for label, text in zip(self.labels, self.texts, strict=True)
        )

    def stand_in(self, prompt: str) -> bool:
        """Return whether a prompt already shows each option on a separate line."""
        lines = [line.strip() for line in prompt.splitlines()]
        ends = [
            {
                n
                for n, line in enumerate(lines)
                if line.endswith(text) and _BEFORE.fullmatch(line.removesuffix(text))
            }
            for text in self.texts
        ]
        return all(ends) and len(set.union(*ends)) >= len(self.texts)

    def right(self, answer: object, text: str) -> int:
        """Return the index of the correct option, from 0.

        The answer is a label, the text of an option, or an index from 0. An index cannot be told
        from labels that are numbers, and in columns not from texts that are.

        Raises:
            RowRefusedError: The answer matches no option, or more than one.
        """
        text = text.strip()
        numbered = is_number(answer) and self.labels[0] == "A"
        fitting = set() if numbered else set(self._named(text))
        indexed = not any(label.isdigit() for label in self.labels)
        if indexed and (not fitting or self.in_columns) and _INDEX.fullmatch(text):
            fitting.add(int(float(text)))
        if len(fitting) == 1 and max(fitting) < len(self.texts):
            return fitting.pop()
        what = "more than one" if len(fitting) > 1 else "none"
        raise RowRefusedError(
            f"the answer `{shown(text)}` matches {what} of the {len(self.texts)} options in key "
            f"`{self.key}`: write its label ({', '.join(self.labels)}), its text, or its index "
            "from 0"
        )

    def _named(self, answer: str) -> list[int]:
        """Return the indices of the options whose label or text equals an answer."""
        found = []
        for number, (label, text) in enumerate(zip(self.labels, self.texts, strict=True)):
            spelled = re.fullmatch(rf"\(?{re.escape(label)}[.):]?", answer, re.IGNORECASE)
            whole = re.fullmatch(_LEAD.format(re.escape(label)) + re.escape(text), answer)
            if spelled or whole or answer == text.strip():
                found.append(number)
        return found


def read_options(fields: Fields, *, lettered_columns: bool) -> Options | None:
    """Return the options of a row, or None if it has none.

    Supported are a list of texts, a list of {label, text} objects, one object with two lists
    {"text": [...], "label": [...]}, and an object of texts by label.

    Raises:
        RowRefusedError: The options have another layout.
    """
    key = fields.first(OPTION_KEYS)
    if key is not None:
        return _options(fields, key)
    letters = list(takewhile(fields.has, string.ascii_uppercase)) if lettered_columns else []
    if len(letters) < 2:
        return None
    return _checked("A", letters, [fields.text(letter, "option") for letter in letters])


def _options(fields: Fields, key: str) -> Options:
    value = fields.take(key)
    if isinstance(value, dict) and {"text", "label"} <= value.keys():
        labels, texts = value["label"], value["text"]
        if isinstance(labels, list) and isinstance(texts, list):
            _refuse_media(fields, key, value)
            return _checked(key, labels, texts)
    if isinstance(value, dict):
        # Arrow adds the keys of other rows to an object, with null values.
        given = {label: text for label, text in value.items() if not is_blank(text)}
        return _checked(key, list(given), list(given.values()))
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        for one in value:
            _refuse_media(fields, key, one)
        return _checked(key, [x.get("label") for x in value], [x.get("text") for x in value])
    if isinstance(value, list) and len(value) <= MAX_OPTIONS:
        return _checked(key, list(string.ascii_uppercase[: len(value)]), value)
    raise _no_options(key)


def _refuse_media(fields: Fields, key: str, option: dict[str, object]) -> None:
    """Record which keys of an option are not read; raise `RowRefusedError` for images and such."""
    said = {
        name: next((one for one in value if not is_blank(one)), None)
        if isinstance(value, list)
        else value
        for name, value in option.items()
    }
    inner = fields.inner(key, said)
    inner.take("label")
    inner.take("text")
    if media := inner.first(MEDIA):
        raise RowRefusedError(
            f"an option in key `{key}` has `{media}`, but telltune supports text only: remove the "
            "row, or the key from all options"
        )


def _checked(key: str, labels: Sequence[object], texts: Sequence[object]) -> Options:
    """Return options with the given labels and texts, or raise `RowRefusedError`."""
    if len(labels) != len(texts) or not 2 <= len(texts) <= MAX_OPTIONS:
        raise _no_options(key)
    read = [
        Fields({"label": label, "text": text})
        for label, text in zip(labels, texts, strict=True)
        if not isinstance(text, list | dict | bytes)
    ]
    if len(read) < len(texts):
        raise _no_options(key)
    names = [one.text("label", f"label in key `{key}`").strip() for one in read]
    said = [one.text("text", f"option in key `{key}`").strip() for one in read]
    if len(set(names)) < len(names):
        raise _no_options(key)
    bare = [
        re.sub("^" + _LEAD.format(re.escape(label)), "", text)
        for label, text in zip(names, said, strict=True)
    ]
    if all(map(str.__ne__, bare, said)) and all(bare):
        said = bare
    return Options(key, tuple(names), tuple(said))


def _no_options(key: str) -> RowRefusedError:
    return RowRefusedError(
        f"key `{key}` does not contain 2 to {MAX_OPTIONS} options: write a list of texts, or "
        '{"text": [...], "label": [...]}'
    )
