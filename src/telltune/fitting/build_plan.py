"""Preparation of a run: encode the data, and plan its steps and evaluations on dev data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.choice import drawn_tokens, size_general
from telltune.data.encoding_cache import EncodingCache
from telltune.data.examples import prepend_shots
from telltune.data.mixture import Mixture
from telltune.data.task import TaskData, check_unlabeled, count_within_budget
from telltune.data.thinking import thinking_tags
from telltune.errors import DataError, RecipeError
from telltune.fitting.run_plan import DevPlan, RunCounts, RunPlan, mean_passes
from telltune.inference.labels import labels_of, need_labels
from telltune.levers.registry import levers_of
from telltune.models import adapter_targets, compute_dtype
from telltune.models.tokenizer import PLAIN_TEMPLATE
from telltune.recipe import Recipe, as_number
from telltune.training.defaults import resolve
from telltune.training.processes import processes
from telltune.training.training_data import LossWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.anchor import Anchor
    from telltune.data.encoded import EncodedSet
    from telltune.data.general import GeneralData
    from telltune.fitting.model_info import ModelInfo
    from telltune.fitting.protocol import AdapterMethod, Method

# A run evaluates the first dev examples only, at most this many.
_MOST_DEV_ITEMS = 100
_MOST_LOOKS = 10
_LEAST_LOOKS = 4
# Work of all dev evaluations as a share of training. A forward pass is a third of a step.
_SHARE = 0.25
_FORWARD = 1 / 3


def build_run_plan(
    method: AdapterMethod,
    task: TaskData,
    general: GeneralData | None,
    model: ModelInfo,
    recipe: Recipe,
) -> RunPlan:
    """Encode, size and order the training data of a method.

    The recipe has the method's own keys; see `AdapterMethod.configured`. Without general data,
    `mixture.passes` are ordinary epochs: every example once, in a new order each time. With general
    data, all passes are shuffled together, as in TELL.

    Raises:
        RecipeError: The recipe lacks an anchor, general data or unlabeled inputs that the method
            needs, or names layers that the model does not have.
        DataError: An example is too long, or there are too few general data.
    """
    anchor = task.anchor if method.anchored else None
    check_needs(method, anchored=anchor is not None, general=general is not None)
    for lever in levers_of(recipe):
        if lever.needs_unlabeled:
            check_unlabeled(task.unlabeled, f"`{lever.name}`", task.given_unlabeled)
    if method.grouped:
        _refuse_single(recipe, method.name)
    if not recipe.training.full_parameters:
        if model.layers is not None:
            adapter_targets(model.layers, recipe.lora)
        if recipe.meta is not None and recipe.lora.changes_base:
            raise RecipeError(
                f"`lora.init: {recipe.lora.init}` sets the initial weights, which `meta` learns; "
                "remove one of the two."
            )
        if recipe.lora.changes_base and recipe.lora.dropout:
            raise RecipeError(
                f"`lora.init: {recipe.lora.init}` moves a part of the base's weights into the "
                "adapter, which `lora.dropout` would drop; set it to 0."
            )
        if recipe.lora.modules_to_save and compute_dtype(recipe.training.precision).itemsize < 4:
            raise RecipeError(
                "`lora.modules_to_save` needs `training.precision: fp32`: in bf16, rounding would "
                "undo the steps of the optimizer."
            )
    plain, anchored = (encoding(model, recipe, carried) for carried in (None, anchor))
    # Sizes are counted without the anchor, so that methods are compared at equal task tokens.
    counted = plain.encode(task.train)
    used = count_within_budget(counted.lengths, recipe.task.max_tokens)
    # A lever may have repeated the labeled examples, as often as there are passes.
    distinct = {id(example): i for i, example in enumerate(task.train[:used])}
    task_tokens = int(counted.lengths[list(distinct.values())].sum())
    if recipe.product_of_experts is not None:
        labeled = task.train[:used]
        need_labels(
            labels_of(task, labeled),
            "`product_of_experts`",
            "remove it",
            [example.completion for example in labeled],
        )
    encoded = anchored.encode([prepend_shots(task.shots, example) for example in task.train[:used]])

    recipe, chosen = resolve(recipe, used, model.shape)
    settings, spec = recipe.training, recipe.mixture
    passes, batch_size = as_number(spec.passes), as_number(settings.batch_size)
    pool = None
    if method.uses_general and general is not None:
        pool = plain.encode(general, general.contents)
    wanted = _general_count(recipe, task_tokens, pool)
    if method.equal_steps:
        mixed = math.ceil((used * passes + wanted) / batch_size)
        wanted, passes = 0, max(1, round(mixed / math.ceil(used / batch_size)))
    learned = used if method.learns else 0
    selection = recipe.selection
    mixture = Mixture(
        task_examples=learned,
        general_examples=wanted,
        general_available=len(pool) if pool is not None else 0,
        passes=passes if wanted else 1,
        order=(method.order or spec.order) if wanted else "shuffled",
        seed=recipe.seed,
        batch_size=batch_size,
        ranked=selection is not None and selection.order is not None,
    )
    epochs = 1 if wanted else passes
    general_tokens = drawn_tokens(pool.offsets, wanted, recipe.seed) if pool is not None else 0
    trained_tokens = int(encoded.lengths[:learned].sum()) * passes + general_tokens
    truncated = tuple(dict.fromkeys(plain.truncated + anchored.truncated))
    dev = None
    if looks_at_dev(recipe, task):
        shown = [prepend_shots(task.shots, example) for example in task.dev[:_MOST_DEV_ITEMS]]
        budget = answer_budget(encoded.response_lengths, recipe)
        dev = plan_looks(
            anchored.encode(shown), trained_tokens=trained_tokens, answer_tokens=budget
        )
    counts = RunCounts(
        task_examples=len(distinct),
        task_tokens=task_tokens,
        general_examples=wanted,
        general_tokens=general_tokens,
        leverage_ratio=round(general_tokens / task_tokens, 3),
        passes=mean_passes(used * passes, len(distinct)),
        optimizer_steps=mixture.batches_per_epoch * epochs,
        trained_tokens=trained_tokens,
        dev_examples=0 if dev is None else len(dev.encoded),
        truncated=truncated,
    )
    weights = LossWeights(
        settings.loss_average,
        settings.task_weight,
        settings.general_weight,
        learned * passes / (learned * passes + wanted),
    )
    examples = len(counted) + (len(pool) if pool is not None else 0)
    warnings = _template_warnings(model, recipe, plain.unthought, examples)
    return RunPlan(
        encoded, pool, mixture, epochs, weights, counts, anchor, recipe, chosen, dev, warnings
    )


def plan_looks(encoded: EncodedSet, *, trained_tokens: int, answer_tokens: int) -> DevPlan:
    """Plan 4 to 10 evaluations on dev data that take about a quarter of the training work.

    Answers of up to `answer_tokens` are scored if this budget allows at least four evaluations.
    Otherwise only the loss is computed. `trained_tokens` are those of the whole run.
    """
    loss = _FORWARD * int(encoded.offsets[-1])
    answering = _FORWARD * (int(encoded.prompt_lengths.sum()) + len(encoded) * answer_tokens)
    room = _SHARE * trained_tokens
    answers = (loss + answering) * _LEAST_LOOKS <= room
    each = loss + answers * answering
    looks = min(_MOST_LOOKS, max(_LEAST_LOOKS, int(room / each)))
    return DevPlan(encoded, looks, answers, looks * each / trained_tokens)


def looks_at_dev(recipe: Recipe, task: TaskData) -> bool:
    """Return whether a run evaluates on dev data; see `training.early_stopping`.

    Raises:
        RecipeError: The recipe asks for it, and there are no dev data.
    """
    wanted = recipe.training.early_stopping
    if wanted is True and not task.dev:
        raise RecipeError(
            "`training.early_stopping: true` needs dev data; set `task.dev`, or hold out a share "
            "with `task.dev_share: 0.2`."
        )
    if wanted is None:
        named = recipe.task.dev is not None or recipe.task.dev_share is not None
        return named and processes().count == 1
    return wanted


def _template_warnings(
    model: ModelInfo, recipe: Recipe, unthought: int, examples: int
) -> tuple[str, ...]:
    """Return warnings about unexpected effects of the chat template on the data.

    `unthought` of all `examples` have no thinking, although their prompt opens a thinking block.
    """
    found = []
    if recipe.model.chat_template is None and model.tokenizer.chat_template == PLAIN_TEMPLATE:
        found.append(
            f"model `{recipe.model.name}` has no chat template, so turns are separated by empty "
            "lines; if it should have one, set `model.chat_template` to a Jinja file or to "
            "`chatml`."
        )
    if unthought:
        opening, closing = thinking_tags(model.tokenizer.chat_template)
        found.append(
            f"the chat template opens `{opening}` before each answer, and {unthought:,} of "
            f"{examples:,} examples have no `{closing}`, so the model learns to answer without "
            f"thinking; add the thinking (`reasoning_content`, or `{opening}…{closing}` before the "
            f"answer), or set `model.chat_template` to a template without `{opening}`."
        )
    return tuple(found)


def encoding(model: ModelInfo, recipe: Recipe, anchor: Anchor | None = None) -> EncodingCache:
    """Return the encoder of a run's data with an anchor or none, which caches on disk."""
    return EncodingCache(
        model.tokenizer,
        anchor,
        max_length=recipe.training.max_length,
        context=model.shape.context_length,
        too_long=recipe.training.too_long,
    )


def longest_example(model: ModelInfo, recipe: Recipe) -> int:
    """Return the maximum number of tokens in an example."""
    return min(recipe.training.max_length, model.shape.context_length)


def check_needs(method: Method, *, anchored: bool, general: bool) -> None:
    """Check that the recipe has the anchor and general data that a method needs.

    Raises:
        RecipeError: The anchor or the general data are missing.
    """
    if method.anchored and not anchored:
        raise RecipeError(
            f"method `{method.name}` needs an anchor; set `anchor: ...` in the recipe, or let "
            "`tell anchor RECIPE` propose one."
        )
    if method.uses_general and not general:
        raise RecipeError(
            f"method `{method.name}` needs general data; set `general: embedded`, or name files."
        )


def answer_budget(response_lengths: NDArray[np.int64], recipe: Recipe) -> int:
    """Return the maximum answer length in tokens: the recipe's, or 1.25 × the longest plus 4."""
    if recipe.evaluation.max_new_tokens is not None:
        return recipe.evaluation.max_new_tokens
    return int(np.max(response_lengths) * 1.25) + 4


def _refuse_single(recipe: Recipe, method: str) -> None:
    """Refuse settings that score or weigh single inputs, for a method that groups them.

    Raises:
        RecipeError: The recipe has such a setting.
    """
    found = [lever.name for lever in levers_of(recipe) if lever.use_as == "once"]
    if recipe.confidence is not None:
        found.append("confidence")
    if recipe.product_of_experts is not None:
        found.append("product_of_experts")
    if recipe.evaluation.answers == "likelihood":
        found.append("evaluation.answers: likelihood")
    if found:
        raise RecipeError(
            f"method `{method}` trains on groups of inputs, and `{found[0]}` scores single inputs; "
            "remove one of the two."
        )


def _general_count(recipe: Recipe, task_tokens: int, pool: EncodedSet | None) -> int:
    if pool is None:
        return 0
    count = recipe.mixture.general_examples
    if count is None:
        return size_general(recipe.mixture.leverage_ratio, task_tokens, pool.offsets, recipe.seed)
    if count > len(pool):
        raise DataError(
            f"mixture.general_examples = {count}, but the general data has {len(pool)} examples, "
            f"{count - len(pool)} short; lower mixture.general_examples, or add general data."
        )
    return count
