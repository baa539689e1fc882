"""Each algorithm meta-learns initial weights on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.api import fit
from telltune.data.encoding import Encoder
from telltune.data.task import load_general, load_task
from telltune.errors import DataError, RecipeError
from telltune.fitting.meta_init import _Loss, meta_start
from telltune.models import load_base
from telltune.models.kernels.packing import pack
from telltune.recipe import MetaSpec, recipe_from_dict
from telltune.training.adapter import add_lora, trained_weights

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = {"steps": 6, "inner_steps": 2, "batch_size": 2, "examples": 80}


@pytest.fixture
def sources(
    toy_recipe: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> dict[str, Any]:
    """Return the toy recipe with two general sources, each with one rule."""
    files = []
    for name, say in (("double", lambda n: f"{n}{n}"), ("half", lambda n: f"{n // 2}")):
        rows = [{"prompt": f"{name} {n}", "completion": say(n)} for n in range(40)]
        files.append(str(write_jsonl(tmp_path / f"{name}.jsonl", rows)))
    return toy_recipe | {"general": files}


def test_each_algorithm_moves_the_start_in_its_own_way_and_the_base_stays(
    sources: dict[str, Any], tiny_base: Any
) -> None:
    recipe = recipe_from_dict(sources)
    general = load_general(recipe)
    assert general is not None
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    model = add_lora(tiny_base, recipe.lora, recipe.seed)
    fresh = trained_weights(model)
    model.unload()
    starts = []
    for algorithm in ("maml", "fomaml", "reptile"):
        spec = MetaSpec(algorithm=algorithm, **SMALL)
        found = meta_start(tiny_base, general, recipe, spec)
        after = tiny_base.model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert found.keys() == fresh.keys()
        # The matrix that starts at zero has the gradient.
        moved = [name for name in fresh if not torch.equal(found[name], fresh[name])]
        assert any("lora_B" in name for name in moved)
        assert all(torch.isfinite(value).all() for value in found.values())
        starts.append(found)
    again = meta_start(tiny_base, general, recipe, spec)
    assert all(torch.equal(found[name], again[name]) for name in found)
    name = next(name for name in fresh if "lora_B" in name)
    assert not torch.allclose(starts[0][name], starts[1][name], atol=1e-6)
    assert not torch.allclose(starts[1][name], starts[2][name], atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_quick_loss_and_its_gradient_are_those_that_can_be_differentiated_twice(
    toy_recipe: dict[str, Any], precision: Any
) -> None:
    toy_recipe["training"]["precision"] = precision
    recipe = recipe_from_dict(toy_recipe)
    base = load_base(recipe.model, precision)
    encoded = Encoder(base.tokenizer).encode(load_task(recipe).train[:6])
    model: Any = add_lora(base, recipe.lora, 0)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=generator).mul_(0.1).requires_grad_()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    found = []
    for second_order in (False, True):
        loss = _Loss(model, second_order=second_order, recipe=recipe)
        # With one example per row, which plain attention needs.
        rows = pack([encoded[i] for i in range(6)], 128, together=not second_order)
        value = loss(weights, rows)
        found.append((value, *torch.autograd.grad(3 * value, list(weights.values()))))
    tolerance = 1e-4 if precision == "fp32" else 0.15
    for quick, plain in zip(*found, strict=True):
        assert float(plain.detach().norm()) > 0
        assert float((quick - plain).detach().norm() / plain.detach().norm()) < tolerance


def test_examples_too_long_for_it_are_left_out(
    sources: dict[str, Any], tiny_base: Any, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    long = [{"prompt": "word " * 600, "completion": "x"} for _ in range(8)]
    more = [*sources["general"], str(write_jsonl(tmp_path / "long.jsonl", long))]
    recipe = recipe_from_dict(sources | {"general": more})
    general = load_general(recipe)
    assert general is not None
    assert meta_start(tiny_base, general, recipe, MetaSpec(**SMALL | {"examples": 88}))


def test_entries_of_one_name_are_two_tasks(
    sources: dict[str, Any], tiny_base: Any, tmp_path: Path
) -> None:
    spec, starts = MetaSpec(**SMALL), []
    (tmp_path / "other").mkdir()
    for name in ("another.jsonl", "other/double.jsonl"):
        (tmp_path / name).write_bytes((tmp_path / "half.jsonl").read_bytes())
        recipe = recipe_from_dict(
            sources | {"general": [sources["general"][0], str(tmp_path / name)]}
        )
        general = load_general(recipe)
        assert general is not None
        starts.append(meta_start(tiny_base, general, recipe, spec))
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    together = tmp_path / "together.jsonl"
    together.write_bytes(b"".join(Path(name).read_bytes() for name in sources["general"]))
    recipe = recipe_from_dict(sources | {"general": [str(together)]})
    general = load_general(recipe)
    assert general is not None
    with pytest.raises(DataError, match="1 of 1 sources"):  # although the examples are the same
        meta_start(tiny_base, general, recipe, spec)


def test_a_run_begins_there(sources: dict[str, Any], tmp_path: Path) -> None:
    sources["task"]["max_examples"] = 8
    sources["mixture"] = {"general_examples": 4, "passes": 1}
    first_loss = {}
    for method in ("sft_anchor", "meta", "tell", "tell_meta", "tell with a start"):
        recipe = sources | {"method": method.split()[0]}
        if method not in ("sft_anchor", "tell"):
            recipe |= {"meta": SMALL | {"learning_rate": 0.05}}
        record = fit(recipe, tmp_path / method, progress=False).record
        assert (record["counts"]["general_examples"] > 0) == method.startswith("tell")
        log = (tmp_path / method / "training_log.jsonl").read_text().splitlines()
        first_loss[method] = json.loads(log[0])["loss"]
    assert first_loss["meta"] != first_loss["sft_anchor"]
    assert first_loss["tell"] not in (first_loss["tell_meta"], first_loss["tell with a start"])


def test_what_teaches_no_start_is_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    many = sources | {"method": "meta", "meta": SMALL | {"batch_size": 30}}
    with pytest.raises(DataError, match="two general sources with 90 examples"):
        fit(many, tmp_path / "out", progress=False)
    alone = sources | {"method": "sft", "meta": SMALL, "general": None}
    with pytest.raises(RecipeError, match="`meta` needs a method that mixes general data"):
        fit(alone, tmp_path / "alone", progress=False)


def test_a_start_is_learned_for_adapters_only(toy_recipe: dict[str, Any]) -> None:
    toy_recipe["training"]["full_parameters"] = True
    with pytest.raises(RecipeError, match="remove one of the two"):
        fit(toy_recipe | {"method": "meta"}, toy_recipe["model"] + "-out", progress=False)
