"""Models that write texts: the base model, or a teacher in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.inference.engine import sample_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.inference.api_client import ApiClient
    from telltune.models import LoadedModel


@dataclass(frozen=True)
class Writer:
    """Model that writes texts.

    Attributes:
        base: Base model without an adapter.
        teacher: Client of a model behind an API that writes in place of the base, or None.
    """

    base: LoadedModel
    teacher: ApiClient | None = None

    @property
    def speaker(self) -> str:
        """Cache key of the models; the lengths of texts depend on the base's tokenizer."""
        return " ".join(one.speaker for one in (self.base, self.teacher) if one is not None)

    def write(
        self,
        requests: Sequence[Example],
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        thinking: bool = False,
    ) -> list[str]:
        """Return a text for each request; see `sample_texts` and `ApiClient.ask`.

        `prompts` are the requests as the base reads them. `thinking` applies to the base only.
        """
        if self.teacher is None:
            return sample_texts(
                self.base,
                prompts,
                max_new_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                top_p=top_p,
                thinking=thinking,
            )
        replies = self.teacher.ask_all(
            requests, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        return [reply.text for reply in replies]
