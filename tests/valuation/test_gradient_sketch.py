"""Gradients of single tokens are exact, and their sketch keeps angles within its bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import ModelError
from telltune.recipe import LoraSpec
from telltune.training.adapter import add_lora
from telltune.valuation.gradient_sketch import GradientSketch, gradient_weights, token_gradients

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 20_000


def cosines(vectors: NDArray[Any]) -> NDArray[Any]:
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions @ directions.T


def gradients_of(kind: str) -> NDArray[Any]:
    """Return twenty vectors at many angles, with their mass spread out or concentrated."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=SIZE), rng.normal(size=(20, SIZE))
    vectors = own + rng.uniform(-2, 2, (20, 1)) * shared
    if kind == "heavy":
        vectors *= 1 / np.arange(1, SIZE + 1)
    return vectors


def sketched(vectors: NDArray[Any], width: int, seed: int = 0) -> NDArray[Any]:
    weight = torch.zeros(SIZE, requires_grad=True)
    sketch = GradientSketch([weight], width=width, seed=seed)
    return np.stack([sketch.of(weight @ torch.from_numpy(v).float()) for v in vectors])


@pytest.mark.parametrize("kind", ["spread", "heavy"])
@pytest.mark.parametrize("width", [256, 2048])
def test_cosines_are_kept_within_the_bound(kind: str, width: int) -> None:
    vectors = gradients_of(kind)
    true = cosines(vectors)
    pairs = np.triu_indices(len(vectors), 1)
    errors = np.stack(
        [(cosines(sketched(vectors, width, seed)) - true)[pairs] for seed in range(6)]
    )
    # Standard deviations of a cosine, with a tenth added for only 1,140 errors.
    assert np.sqrt((errors**2).mean()) < 1.1 / np.sqrt(width)
    assert abs(errors.mean()) < 0.2 / np.sqrt(width)


def test_the_same_direction_stays_the_same() -> None:
    [vector, *_] = gradients_of("spread")
    found = cosines(sketched(np.stack([vector, 3 * vector, -vector]), 512))
    assert found[0] == pytest.approx([1, 1, -1], abs=1e-5)


def test_a_seed_is_one_sketch_and_another_seed_another() -> None:
    vectors = gradients_of("spread")[:2]
    assert np.array_equal(sketched(vectors, 64), sketched(vectors, 64))
    assert not np.array_equal(sketched(vectors, 64), sketched(vectors, 64, seed=1))


def test_a_gradient_that_fits_is_kept_as_it_is() -> None:
    weights = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.ones(1, requires_grad=True)]
    unused = torch.ones(2, requires_grad=True)
    sketch = GradientSketch([*weights, unused])
    loss = (weights[0] ** 2).sum() + 5 * weights[1].sum()
    assert sketch.of(loss).tolist() == [2, 4, 5, 0, 0]


@pytest.fixture
def adapted(tiny_base: Any) -> Any:
    """Return the tiny model with a random adapter."""
    model = add_lora(tiny_base, LoraSpec(rank=2, alpha=4, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
    return model


def test_of_an_adapter_all_its_weights_count(adapted: Any) -> None:
    chosen = {id(weight) for weight in gradient_weights(adapted)}
    assert chosen == {id(w) for name, w in adapted.named_parameters() if "lora_" in name}


def test_embeddings_output_layer_and_norms_do_not_count(tiny_base: Any) -> None:
    model = tiny_base.model.requires_grad_(True)
    chosen = {id(weight) for weight in gradient_weights(model)}
    names = {name for name, weight in model.named_parameters() if id(weight) in chosen}
    assert len(names) == 2 * 7  # layers x linear maps
    assert not any("embed" in n or "norm" in n or "lm_head" in n for n in names)
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    with pytest.raises(ModelError, match="trained weights other than embeddings and norms"):
        gradient_weights(model)


def test_token_gradients_are_those_of_each_token_alone(adapted: Any, tiny_tokenizer: Any) -> None:
    examples = [Example("item 7", "round ball"), Example("a longer item 8 is", "box")]
    encoded = Encoder(tiny_tokenizer).encode(examples)
    weights = gradient_weights(adapted)
    sketch = GradientSketch(weights)
    assert sketch.width == sum(weight.numel() for weight in weights)
    adapted.train()
    count = int(encoded.response_lengths.sum())
    chosen = np.array([0, 2, count - 1])
    found = token_gradients(adapted, encoded, chosen, sketch)
    adapted.eval()
    for place, (example, token) in enumerate([(0, 0), (0, 2), (1, -1)]):
        ids, prompt = encoded[example]
        row = torch.tensor(ids.astype(np.int64))
        nll = functional.cross_entropy(
            adapted(row[None]).logits[0, prompt - 1 : -1], row[prompt:], reduction="none"
        )
        plain = torch.autograd.grad(nll[token], weights)
        wanted = torch.cat([gradient.flatten() for gradient in plain]).numpy()
        assert np.abs(wanted).max() > 0.01
        assert found[place] == pytest.approx(wanted, abs=1e-4)
