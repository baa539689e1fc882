"""Encoded examples on disk, by content: the same examples are tokenized once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from telltune.data.anchor import anchored_tokenizer
from telltune.data.chat_template import ChatTemplate
from telltune.data.contents import Contents, ContentsHash, contents_of
from telltune.data.control_tokens import ControlTokens
from telltune.data.encoded import EncodedSet, EncodedWriter
from telltune.data.encoding import Encoder
from telltune.errors import DataError
from telltune.storage import atomic_folder, cache_folder, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from telltune.data.anchor import Anchor
    from telltune.data.examples import Example
    from telltune.data.tokenizer import KnownTokenizer

__all__ = ["EncodingCache"]

_NOTES = "notes.json"
_CLOCK = "strftime_now"
"""What transformers gives to templates that write the date."""


class EncodingCache:
    """What an `Encoder` makes of examples, from the disk where it was made before.

    Args:
        tokenizer: Loaded only when examples have to be encoded.
        anchor: What its chat template carries besides, or None.
        max_length: As for `Encoder`.
        too_long: As for `Encoder`.
    """

    def __init__(
        self,
        tokenizer: KnownTokenizer,
        anchor: Anchor | None = None,
        *,
        max_length: int | None = None,
        too_long: Literal["refuse", "truncate"] = "refuse",
    ) -> None:
        self.tokenizer = tokenizer
        self.anchor = anchor
        self.max_length = max_length
        self.too_long = too_long
        self.truncated: list[str] = []
        """Origins of examples that lost their end, for the caller to name."""
        self.unthought = 0
        """Examples without thinking whose prompt opens a thinking block, for the caller to name."""

    def encode(self, examples: Iterable[Example], contents: Contents | None = None) -> EncodedSet:
        """The examples' ids, mapped from disk.

        The examples go from the reader through the tokenizer to the disk, a few thousand at a time,
        and the set is mapped from there, so that no number of them fills the memory.

        Args:
            examples: Read not at all where the set is on disk and `contents` is given.
            contents: Of these examples, where they are known.

        Raises:
            DataError: As `Encoder.encode`; or the examples are not those that `contents` tells of.
            ModelError: As `anchored_tokenizer`; or there is no tokenizer to load.
            RecipeError: As `anchored_tokenizer`.
        """
        contents = contents_of(examples) if contents is None else contents
        folder = cache_folder("encoded") / self._key(contents)
        if not folder.is_dir():
            with atomic_folder(folder) as filling:
                self._encode_into(filling, examples, contents)
        # What is to be named must be named in every run.
        notes = read_cached_json(folder / _NOTES) or {}
        self.truncated += notes.get("truncated", [])
        self.unthought += notes.get("unthought", 0)
        return EncodedSet.load(folder)

    def _encode_into(self, folder: Path, examples: Iterable[Example], contents: Contents) -> None:
        encoder = Encoder(
            anchored_tokenizer(self.tokenizer.load(), self.anchor),
            max_length=self.max_length,
            too_long=self.too_long,
        )
        passing = ContentsHash()
        with EncodedWriter(folder) as writer:
            for part in encoder.encode_parts(passing.follow(examples)):
                writer.append(part)
        if passing.contents != contents:
            raise DataError("the data were changed while they were read; run the command again.")
        notes = {"truncated": encoder.truncated, "unthought": encoder.unthought}
        write_json(folder / _NOTES, notes)

    def _key(self, contents: Contents) -> str:
        """A hash of all that decides the ids, and what is said of them."""
        template = self.tokenizer.chat_template
        if self.anchor is not None:
            template = self.anchor.write_into(template)
        digest = hashlib.sha256(f"{self.max_length}|{self.too_long}|".encode())
        parts = [self.tokenizer.identity, template, contents.sha256]
        if _CLOCK in template:
            # It writes another text on another day.
            tokenizer = self.tokenizer.load()
            parts.append(ChatTemplate(tokenizer, ControlTokens(tokenizer)).sample())
        for part in parts:
            digest.update(part.encode())
        if self.too_long == "truncate":
            # What was cut is named by where it stands.
            digest.update(contents.origins.encode())
        return digest.hexdigest()[:32]
