"""Choice of the inference engine for a model, and sampled answers as texts."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch

from telltune.data.encoding import Encoder
from telltune.errors import ModelError
from telltune.inference.packed_engine import PackedGenerator, layer_backend
from telltune.inference.transformers_engine import TransformersGenerator
from telltune.inference.vllm_engine import VllmGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.models import LoadedModel
    from telltune.recipe import EngineName

# Settings of a generation_config that change greedy decoding, and their neutral values.
_CHANGES_CHOICE: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
    "guidance_scale": (None, 1.0),
}
# Those that the packed engine applies.
_PACKED = ("repetition_penalty",)


class Generator(Protocol):
    """Engine that continues prompts."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Maximum length of an answer in tokens.
            stop_ids: Ids of tokens that end an answer; they are not part of it.
            temperature: Sampling temperature; 0 means greedy decoding.
            top_p: Sample among the likeliest tokens that together have this probability.
            on_done: Callback that receives the number of prompts finished since its last call.

        Returns:
            Token ids of the answers, in the order of the prompts.
        """
        ...


def make_generator(
    model: Any,
    pad_id: int,
    batch_tokens: int = 8192,
    engine: EngineName = "auto",
    *,
    in_process: bool = False,
) -> Generator:
    """Return the engine that a recipe names.

    With `auto`, return the fastest engine that reproduces the model's answers.

    Args:
        model: Causal language model, with or without an adapter; it must not change afterwards.
        pad_id: Id of the padding token.
        batch_tokens: Number of tokens in a batch; vLLM chooses its own batch size.
        engine: `auto`, `packed`, `transformers` or `vllm`.
        in_process: Ignore `engine`, and use telltune's own engine, or transformers if the model is
            not supported. Starting vLLM does not pay off for a few prompts.

    Raises:
        ModelError: `engine` is `packed` or `vllm` and does not support this model or machine.
    """
    if engine == "transformers" and not in_process:
        return TransformersGenerator(model, pad_id, batch_tokens)
    wishes = [
        name
        for name, neutral in _CHANGES_CHOICE.items()
        if getattr(model.generation_config, name, None) not in neutral
    ]
    if in_process:
        engine = "auto"
    elif not wishes and engine == "vllm":
        return VllmGenerator(model)
    elif not wishes and engine == "auto" and _vllm_is_quicker():
        try:
            return VllmGenerator(model)
        except ModelError as error:
            _warn(f"{error} telltune's own engine is used instead.")
    others = wishes if engine == "vllm" else [name for name in wishes if name not in _PACKED]
    if not others and layer_backend(model) is not None:
        return PackedGenerator(model, batch_tokens)
    if engine != "auto":
        reason = f"its generation_config sets {', '.join(others)}" if others else "its architecture"
        raise ModelError(
            f"evaluation.engine: {engine} does not support this model ({reason}); use `auto`."
        )
    return TransformersGenerator(model, pad_id, batch_tokens)


def _vllm_is_quicker() -> bool:
    """Return whether vLLM is installed and a GPU is available; `auto` never uses it on a CPU."""
    return torch.cuda.is_available() and find_spec("vllm") is not None


@cache
def _warn(message: str) -> None:
    """Log a warning once, not for every adapter of a study."""
    logging.getLogger(__name__).warning(message)


def sample_texts(
    base: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    top_p: float = 1.0,
    thinking: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """Sample an answer to each prompt, without white space around it.

    The same seed gives the same answers. The global random state is preserved.

    Args:
        base: Base model that answers, without an adapter.
        prompts: Token ids of each prompt, up to the start of the answer.
        max_new_tokens: Maximum length of an answer in tokens.
        temperature: Sampling temperature.
        seed: Seed of the sampling.
        top_p: Sample among the likeliest tokens that together have this probability.
        thinking: Keep the thinking before an answer in the text.
        on_done: Callback that receives the number of answers finished since its last call.
    """
    tokenizer, encoder = base.tokenizer, Encoder(base.tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        answers = make_generator(base.model, int(tokenizer.pad_token_id or 0)).generate(
            prompts,
            max_new_tokens=max_new_tokens,
            stop_ids=encoder.stop_ids,
            temperature=temperature,
            top_p=top_p,
            on_done=on_done,
        )
    if thinking:
        return [str(tokenizer.decode(a, skip_special_tokens=True)).strip() for a in answers]
    return [encoder.answer(text).strip() for text in encoder.texts(answers)]
