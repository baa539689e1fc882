"""Initial adapter weights by MAML, first-order MAML and Reptile (as in arXiv 1908.10423).

Each source of the general data is one task. With θ the initial weights, and θ' the weights after
gradient descent on a task's support batches:

- MAML (Finn et al., arXiv 1703.03400): θ ← θ - β ∇_θ L_query(θ'), through the inner steps.
- FOMAML: θ ← θ - β ∇_θ' L_query(θ'): as if θ' did not depend on θ.
- Reptile (Nichol et al., arXiv 1803.02999): θ ← θ + ε · mean(θ' - θ); needs no query batch.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.errors import DataError
from telltune.fitting.general_choice import first_drawn
from telltune.models import LoadedModel, compute_dtype, context_length
from telltune.models.kernels.fast_path import FastPath
from telltune.models.kernels.packing import PackedBatch, pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores
from telltune.storage import cache_folder, content_key, make_once, write_bytes
from telltune.training.adapter import add_lora, borrowing, trained_parameters, trained_weights
from telltune.training.progress import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet
    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.recipe import MetaSpec, Recipe

_LONGEST = 512
"""Maximum number of tokens in an example, since MAML keeps every activation."""
_VERSION = 4


def meta_start(
    base: LoadedModel,
    general: GeneralData,
    recipe: Recipe,
    spec: MetaSpec,
    *,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Learn initial adapter weights, and cache them on disk.

    Each source of the general data is a task; examples of more than 512 tokens are skipped. The
    base model is without an adapter, and is unchanged on return.

    Raises:
        DataError: Fewer than two sources have enough examples for an episode.
    """
    examples = first_drawn(general, spec.examples, recipe.seed)
    key = (
        _VERSION,
        base.speaker,
        contents_of(examples).sha256,
        [example.source for example in examples],
        spec.model_dump_json(),
        recipe.lora.model_dump_json(),
        str(compute_dtype(recipe.training.precision)),
        recipe.seed,
    )
    path = cache_folder("meta") / f"{content_key(*key)}.safetensors"
    make_once(path, lambda: write_bytes(path, save(_learn(base, examples, recipe, spec, progress))))
    return load(path.read_bytes())


def _learn(
    base: LoadedModel, examples: Sequence[Example], recipe: Recipe, spec: MetaSpec, progress: bool
) -> dict[str, Tensor]:
    visits = _Visits(base, examples, recipe, spec)
    lora = recipe.lora.model_copy(update={"dropout": 0.0})
    model = add_lora(base, lora, recipe.seed)
    with borrowing(model):
        model.eval()
        trained = trained_parameters(model)
        weights = {name: value.detach().clone() for name, value in trained.items()}
        second_order = spec.algorithm == "maml"
        loss = _Loss(model, second_order=second_order, recipe=recipe)
        optimizer = torch.optim.Adam(list(weights.values()), lr=spec.learning_rate)
        # Fused attention kernels cannot be differentiated twice.
        attending = sdpa_kernel(SDPBackend.MATH) if second_order else nullcontext()
        with bar(shown=progress) as shown, attending, shared_cores():
            counter = shown.add_task(f"start ({spec.algorithm})", total=spec.steps, unit="step")
            for step in range(spec.steps):
                adapt_threads()
                for value in weights.values():
                    value.requires_grad_()
                direction, seen = meta_gradient(
                    spec.algorithm,
                    weights,
                    loss,
                    [visits.episode(step, visit) for visit in range(spec.tasks_per_step)],
                    spec.inner_learning_rate,
                )
                for name, value in weights.items():
                    value.requires_grad_(False)
                    value.grad = direction[name].detach()
                optimizer.step()
                shown.update(counter, completed=step + 1, note=f"loss {seen:.3f}")
        with torch.no_grad():
            for name, value in weights.items():
                trained[name].copy_(value)
        return trained_weights(model)


class _Visits:
    """Episodes of meta-learning, a pure function of seed, step and visit."""

    def __init__(
        self, base: LoadedModel, examples: Sequence[Example], recipe: Recipe, spec: MetaSpec
    ) -> None:
        self._spec, self._seed = spec, recipe.seed
        fast = FastPath(base.model, recipe.training.kernels, fused=False)
        self._together = fast.packed and spec.algorithm != "maml"
        groups: dict[str, list[int]] = defaultdict(list)
        self._encoded: EncodedSet = Encoder(base.tokenizer).encode(examples)
        short = self._encoded.lengths <= min(_LONGEST, context_length(base.model.config))
        for i in np.flatnonzero(short).tolist():
            groups[examples[i].source].append(i)
        needed = (spec.inner_steps + 1) * spec.batch_size
        self._groups = [np.array(g) for g in groups.values() if len(g) >= needed]
        if len(self._groups) < 2:
            raise DataError(
                f"`meta` needs at least two general sources with {needed} examples each of up to "
                f"{_LONGEST} tokens, but among {len(examples)} examples {len(self._groups)} of "
                f"{len(groups)} sources have enough; raise meta.examples, lower "
                "meta.batch_size, or add general data."
            )
        self._chances = task_chances([len(g) for g in self._groups], spec.sampling)

    def episode(self, step: int, visit: int) -> Episode:
        """Return batches of distinct examples from one source drawn by its probability."""
        rng = np.random.default_rng([self._seed, step, visit])
        group = self._groups[int(rng.choice(len(self._groups), p=self._chances))]
        count, size = self._spec.inner_steps + 1, self._spec.batch_size
        drawn = rng.permutation(group)[: count * size].reshape(count, size)
        *support, query = [self._batch(row.tolist()) for row in drawn]
        return Episode(support, query)

    def _batch(self, indices: list[int]) -> list[PackedBatch]:
        rows = [self._encoded[i] for i in indices]
        return pack(rows, _LONGEST * len(rows), together=self._together)


class _Loss:
    """Mean loss per response token of a batch, as a function of the adapter's weights.

    Unless it is differentiated twice (`second_order`), the fused layers of training compute it
    together with its gradient.
    """

    def __init__(self, model: Any, *, second_order: bool, recipe: Recipe) -> None:
        self._model, self._second_order = model, second_order
        self._nll = _Nll(model)
        self._trained = list(trained_parameters(model).values())
        self._fast = FastPath(model, recipe.training.kernels, fused=not second_order)
        dtype = compute_dtype(recipe.training.precision)
        device = next(model.parameters()).device.type
        self._autocast = torch.autocast(
            device, dtype=dtype, enabled=dtype is torch.bfloat16, cache_enabled=False
        )

    def __call__(self, weights: Mapping[str, Tensor], batch: Sequence[PackedBatch]) -> Tensor:
        if not self._second_order:
            loss: Tensor = _Known.apply(partial(self._value, batch), *weights.values())  # type: ignore[no-untyped-call]
            return loss
        named = {f"model.{name}": value for name, value in weights.items()}
        with self._autocast:
            nll = [functional_call(self._nll, named, (row,)) for row in batch]
        return torch.cat(nll).mean()

    def _value(
        self, batch: Sequence[PackedBatch], weights: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the loss and its gradient with respect to each weight."""
        with torch.no_grad():
            for own, value in zip(self._trained, weights, strict=True):
                own.copy_(value)
        with self._autocast, torch.enable_grad(), self._fast.active():
            loss = torch.cat(
                [token_nll(self._model, row, self._fast.cut_loss) for row in batch]
            ).mean()
        return loss.detach(), torch.autograd.grad(loss, self._trained)


class _Known(Function):
    """Autograd function whose gradient is computed together with its value."""

    @staticmethod
    def forward(ctx: Any, find: Callable[..., Any], *weights: Tensor) -> Tensor:
        value, slopes = find(weights)
        ctx.save_for_backward(*slopes)
        return value  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, *(gradient * slope for slope in ctx.saved_tensors)


class _Nll(nn.Module):
    """Module around `token_nll`, so that `functional_call` can replace the weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> Tensor:
        return token_nll(self.model, batch)


Algorithm = Literal["maml", "fomaml", "reptile"]
Sampling = Literal["uniform", "proportional", "mixed"]


class Episode(NamedTuple):
    """Batches of one visit to a task.

    Attributes:
        support: One batch per inner step.
        query: Batch of the outer loss of MAML and FOMAML, and of Reptile's last inner step.
    """

    support: Sequence[Any]
    query: Any


def task_chances(sizes: Sequence[int], sampling: Sampling) -> NDArray[np.float64]:
    """Return the probability of visiting each task, (tasks,).

    It is uniform, proportional to the number of examples, or the mean of the two.
    """
    uniform = np.full(len(sizes), 1 / len(sizes))
    proportional = np.asarray(sizes, np.float64) / sum(sizes)
    return {
        "uniform": uniform,
        "proportional": proportional,
        "mixed": (uniform + proportional) / 2,
    }[sampling]


def adapt(
    weights: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor], Any], Tensor],
    batches: Sequence[Any],
    learning_rate: float,
    *,
    second_order: bool = False,
) -> dict[str, Tensor]:
    """Return the weights after gradient descent with one step per batch.

    The weights must require gradients. `second_order` keeps the graph for derivatives with respect
    to them.
    """
    found = dict(weights)
    for batch in batches:
        slopes = torch.autograd.grad(
            loss(found, batch), list(found.values()), create_graph=second_order
        )
        found = {
            name: value - learning_rate * slope
            for (name, value), slope in zip(found.items(), slopes, strict=True)
        }
        if not second_order:
            found = {name: value.detach().requires_grad_() for name, value in found.items()}
    return found


def meta_gradient(
    algorithm: Algorithm,
    weights: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor], Any], Tensor],
    episodes: Sequence[Episode],
    learning_rate: float,
) -> tuple[dict[str, Tensor], float]:
    """Return the meta-gradient of the initial weights, to be used like a gradient.

    The weights must require gradients. `learning_rate` is that of the inner steps.

    Returns:
        Mean meta-gradient over episodes by name, and mean query loss at θ', before Reptile's step
        on the query.
    """
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    seen = 0.0
    for episode in episodes:
        second_order = algorithm == "maml"
        moved = adapt(weights, loss, episode.support, learning_rate, second_order=second_order)
        query = loss(moved, episode.query)
        seen += float(query.detach()) / len(episodes)
        of = weights if second_order else moved
        slopes = dict(zip(of, torch.autograd.grad(query, list(of.values())), strict=True))
        for name, value in weights.items():
            direction = slopes[name]
            if algorithm == "reptile":
                direction = value.detach() - (moved[name] - learning_rate * slopes[name]).detach()
            total[name] += direction / len(episodes)
    return total, seen
