"""Loaded models that answer requests: adapters, merged models and baselines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from telltune.data.examples import Example
from telltune.errors import DataError, ModelError, RecipeError
from telltune.fitting.adapter_folder import load_base_of, read_tell
from telltune.fitting.baseline_folder import is_baseline, load_folder
from telltune.fitting.group_predictor import GroupPredictor
from telltune.fitting.model_card import is_whole_model
from telltune.inference.next_tokens import Row
from telltune.inference.packed_engine import PackedGenerator, shared_length
from telltune.models import compute_dtype, context_length
from telltune.models.kernels.packing import LEAST_SHARED
from telltune.serving.lanes import ChoosingLane, GeneratingLane, Job, PackedLane
from telltune.serving.writing import Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from telltune.fitting.predictor import Predictor
    from telltune.models import LoadedModel
    from telltune.serving.lanes import Lane

_ENGINES = {
    PackedLane: "packed engine, requests join the running batch",
    GeneratingLane: "transformers, in batches and without streaming: the packed engine does not "
    "support this model",
    ChoosingLane: "chooses a label",
}
# A longer answer of a model without a limit would block the others for hours.
_UNNAMED_CONTEXT = 2**15


@dataclass(frozen=True)
class Sampling:
    """How the answer to a request is generated.

    Attributes:
        max_new_tokens: Longest answer in tokens; None for the adapter's own limit.
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Sample among the likeliest tokens that together have this probability.
        seed: Seed of the sampling; None for none.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class ServedModel:
    """A loaded folder and the lane of its requests.

    Attributes:
        name: Name of the folder, which requests give as `model`.
        predictor: The predictor, as in `tell predict`.
        lane: Lane of the requests.
        loaded: Time of loading in seconds since 1970.
    """

    name: str
    predictor: Predictor
    lane: Lane
    loaded: int = field(default_factory=lambda: int(time.time()))

    @property
    def engine(self) -> str:
        """Description of how requests are answered."""
        return _ENGINES[type(self.lane)]

    def writing(self, stops: Sequence[str] = ()) -> Writing | None:
        """Return the text of an answer, still empty; None if answers are labels in one piece.

        Args:
            stops: Texts that end the answer; they are not part of it.
        """
        return None if isinstance(self.lane, ChoosingLane) else Writing(self.predictor, stops)

    def job(self, example: Example, sampling: Sampling) -> Job:
        """Return a job for a prompt.

        Raises:
            DataError: The prompt and its answer are longer than the model's context, or the chat
                template refuses the prompt.
        """
        predictor = self.predictor
        if isinstance(self.lane, ChoosingLane):
            return Job(example)
        [prompt] = predictor.prompt_ids([example])
        context = context_length(predictor.model.config, _UNNAMED_CONTEXT)
        room = context - len(prompt)
        most = sampling.max_new_tokens or max(1, min(predictor.max_new_tokens, room))
        if most > room:
            raise TooLongError(
                f"the model's context is {context} tokens, but the prompt has {len(prompt)} and "
                f"the answer may have {most}; shorten the messages or lower max_tokens."
            )
        draws = None
        if sampling.seed is not None and sampling.temperature > 0:
            draws = torch.Generator().manual_seed(sampling.seed % 2**63)
        return Job(
            example,
            Row(prompt, most, predictor.stop_ids, sampling.temperature, sampling.top_p, draws),
        )


class TooLongError(DataError):
    """A prompt that does not fit into the model's context with its answer."""


def check_names(folders: Sequence[Path]) -> None:
    """Refuse folders that requests could not tell apart.

    Raises:
        RecipeError: Two folders have the same name.
    """
    names = [folder.resolve().name for folder in folders]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RecipeError(
            f"two folders are named {min(twice)}, which requests could not tell apart; rename one."
        )


def load_models(
    folders: Sequence[Path], *, most: int, trust_model: bool = False
) -> list[ServedModel]:
    """Load folders of `fit` or merged models; adapters of the same base share its weights.

    Args:
        folders: The folders.
        most: Maximum number of requests to one model that are computed together.
        trust_model: As in `tell evaluate`.

    Raises:
        ModelError: A folder is not finished or is damaged, or its base is missing.
    """
    bases: dict[tuple[str, torch.dtype], LoadedModel] = {}
    models = []
    for folder in folders:
        record = read_tell(folder)
        base = None
        if not is_baseline(record) and not is_whole_model(record):
            dtype = compute_dtype(record["recipe"]["training"]["precision"])
            key = record["base"]["revision"], dtype
            if key not in bases:
                bases[key] = load_base_of(folder, record, trust_model=trust_model)
            base = bases[key]
        predictor = load_folder(folder, trust_model=trust_model, base=base)
        if isinstance(predictor, GroupPredictor):
            raise ModelError(
                f"{folder} answers groups of inputs, which requests are not; use `tell predict` "
                "with a file."
            )
        if base is not None:
            base.model = predictor.model
        predictor.in_process = predictor.evaluation.engine != "transformers"
        models.append(ServedModel(folder.resolve().name, predictor, _lane(predictor, most)))
    for model in models:
        # The weights are packed now, with all adapters in place, and not at the first request.
        with model.lane.ready():
            pass
    return models


def _activation(model: Any) -> Callable[[], object]:
    """Return a callable that makes a model's adapter, which is active now, the active one."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return lambda: None
    return partial(_activate, model, model.active_adapter)


def _activate(model: Any, name: str) -> None:
    if model.active_adapter != name:
        model.set_adapter(name)


def _lane(predictor: Predictor, most: int) -> Lane:
    activate = _activation(predictor.model)
    if predictor.model is None or predictor.chooses:
        return ChoosingLane(predictor, activate, most)
    engine = predictor.generator
    if not isinstance(engine, PackedGenerator):
        return GeneratingLane(engine, activate, most)
    two = predictor.prompt_ids([Example("a", ""), Example("b", "")])
    shared = shared_length(two)
    prefix = two[0][:shared] if shared >= LEAST_SHARED else []
    return PackedLane(engine, prefix, activate, most)
