"""Disk cache of encoded examples, keyed by content, so that each set is tokenized once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from telltune.data.anchor import Anchor, anchored_tokenizer
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

    from telltune.data.examples import Example
    from telltune.data.tokenizer import KnownTokenizer

_NOTES = "notes.json"
_CLOCK = "strftime_now"
"""Function that transformers provides to templates that write the date."""


class EncodingCache:
    """Disk cache of the results of an `Encoder`, whose tokenizer is loaded only if needed."""

    def __init__(
        self,
        tokenizer: KnownTokenizer,
        anchor: Anchor | None = None,
        *,
        max_length: int | None = None,
        context: int | None = None,
        too_long: Literal["refuse", "truncate"] = "refuse",
    ) -> None:
        self.tokenizer = tokenizer
        self.anchor = anchor
        self.max_length = max_length
        self.context = context
        self.too_long = too_long
        self.truncated: list[str] = []
        """Origins of truncated examples, for the caller to report."""
        self.unthought = 0
        """Number of examples without thinking whose prompt opens a thinking block, to report."""

    def encode(self, examples: Iterable[Example], contents: Contents | None = None) -> EncodedSet:
        """Return the examples' token ids, mapped from disk.

        Examples are read, tokenized and written to disk a few thousand at a time. Memory therefore
        does not grow with their number.

        They are not read if the set is on disk and their contents are given.

        Raises:
            DataError: As `Encoder.encode`; or the examples do not match `contents`.
            ModelError: As `anchored_tokenizer`; or there is no tokenizer to load.
            RecipeError: As `anchored_tokenizer`.
        """
        contents = contents_of(examples) if contents is None else contents
        folder = cache_folder("encoded") / self._key(contents)
        if not folder.is_dir():
            with atomic_folder(folder) as filling:
                self._encode_into(filling, examples, contents)
        # Every run must report these examples, also when the set comes from the cache.
        notes = read_cached_json(folder / _NOTES) or {}
        self.truncated += notes.get("truncated", [])
        self.unthought += notes.get("unthought", 0)
        return EncodedSet.load(folder)

    def _encode_into(self, folder: Path, examples: Iterable[Example], contents: Contents) -> None:
        encoder = Encoder(
            anchored_tokenizer(self.tokenizer.load(), self.anchor),
            max_length=self.max_length,
            context=self.context,
            too_long=self.too_long,
        )
        passing = ContentsHash()
        with EncodedWriter(folder) as writer:
            for part in encoder.encode_parts(passing.follow(examples)):
                writer.append(part)
        if passing.contents != contents:
            raise DataError("the data changed while they were being read; run the command again.")
        notes = {"truncated": encoder.truncated, "unthought": encoder.unthought}
        write_json(folder / _NOTES, notes)

    def _key(self, contents: Contents) -> str:
        """Return a hash of everything that determines the ids and the notes on them."""
        template = self.tokenizer.chat_template
        if self.anchor is not None:
            template = self.anchor.write_into(template)
        digest = hashlib.sha256(f"{self.max_length}|{self.context}|{self.too_long}|".encode())
        parts = [self.tokenizer.identity, template, contents.sha256]
        if _CLOCK in template:
            # The rendered text depends on the date.
            tokenizer = self.tokenizer.load()
            parts.append(ChatTemplate(tokenizer, ControlTokens(tokenizer)).sample())
        for part in parts:
            digest.update(part.encode())
        if self.too_long == "truncate":
            # Truncated examples are reported by their origins.
            digest.update(contents.origins.encode())
        return digest.hexdigest()[:32]
