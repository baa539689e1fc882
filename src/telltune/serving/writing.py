"""The text of an answer while its tokens arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.fitting.predictor import Predictor


class Writing:
    """Text of one answer, in pieces whose concatenation is the final text.

    Args:
        predictor: Predictor that answers.
        stops: Texts that end the answer; they are not part of it.
    """

    def __init__(self, predictor: Predictor, stops: Sequence[str] = ()) -> None:
        self._predictor = predictor
        self._stops = stops
        self._sent = ""
        self.stopped = False
        """Whether the answer has ended with one of `stops`."""
        self.tokens = 0
        """Number of tokens of the answer so far."""

    def piece(self, answer: list[int], *, ended: bool) -> str:
        """Return the text that is new since the last call and will not change any more.

        Args:
            answer: All token ids of the answer so far.
            ended: Whether there will be no more tokens.
        """
        self.tokens = len(answer)
        if ended:
            text = self._until_stop(self._predictor.final_texts([answer])[0])
        else:
            text = self._until_stop(self._predictor.text_so_far(answer))
            if not self.stopped:
                # White space at the end of a final text is removed.
                text = text[: len(text) - self._held(text)].rstrip()
        new = text.removeprefix(self._sent)
        self._sent += new
        return new

    def _until_stop(self, text: str) -> str:
        found = [at for at in map(text.find, self._stops) if at >= 0]
        self.stopped = bool(found)
        return text[: min(found)].rstrip() if found else text

    def _held(self, text: str) -> int:
        """Return the length of the longest end of a text with which a stop text starts."""
        lengths = range(min(len(text), max(map(len, self._stops), default=0)), 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._stops)), 0)
