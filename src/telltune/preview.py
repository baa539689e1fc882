"""Examples as the model sees them: rendered, tokenized, with a loss mask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from telltune.checked_run import check_run
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, prepend_shots
from telltune.data.task import load_split, load_task
from telltune.errors import RecipeError
from telltune.fitting.model_info import load_model_info
from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.training.steps import Sources

if TYPE_CHECKING:
    from telltune.recipe import Recipe


@dataclass(frozen=True)
class ExamplePreview:
    """An example as the model sees it.

    Attributes:
        source: Name of the data set.
        origin: Location of the example, e.g. "tickets.jsonl:17".
        prompt: Text of the tokens without loss.
        response: Text of the tokens that carry loss.
        input_ids: Token ids of the whole example.
        loss_mask: 1 for each token that carries loss, else 0; same length as `input_ids`.
    """

    source: str
    origin: str
    prompt: str
    response: str
    input_ids: list[int]
    loss_mask: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, with prompt and response joined in `text`."""
        return {
            "source": self.source,
            "origin": self.origin,
            "text": self.prompt + self.response,
            "input_ids": self.input_ids,
            "loss_mask": self.loss_mask,
        }


def shown_examples(recipe: Recipe, n: int, *, split: str = "train") -> list[ExamplePreview]:
    """Return examples as the model sees them; see `telltune.show`."""
    if isinstance(get_method(recipe.method), Baseline):
        raise RecipeError(
            f"method `{recipe.method}` uses no language model, so there are no tokens to show; "
            "choose another method with `--set method=...`."
        )
    tokenizer = load_model_info(recipe.model).tokenizer.load()
    if split == "train":
        return [_shown(tokenizer, *row) for row in _first_trained(recipe, n)]
    if split not in ("dev", "test"):
        raise RecipeError(f"--split {split}: give `train`, `dev` or `test`.")
    method, task = get_method(recipe.method), load_task(recipe)
    anchored = anchored_tokenizer(tokenizer, task.anchor if method.anchored else None)
    examples = load_split(recipe, "dev" if split == "dev" else "test")[:n]
    encoded = Encoder(anchored).encode([prepend_shots(task.shots, example) for example in examples])
    return [_shown(anchored, example, *encoded[i]) for i, example in enumerate(examples)]


def _first_trained(recipe: Recipe, n: int) -> list[tuple[Example, Any, int]]:
    """Return the first examples of a run's mixture, each with its ids and prompt length."""
    ready = check_run(recipe)
    run_plan, mixture = ready.run_plan, ready.run_plan.mixture
    places = mixture.slots(0, 0, min(n, len(mixture))).pairs
    wanted = {index for is_task, index in places if not is_task}
    # General data are read in order, and only as far as needed.
    stream = islice(ready.general or (), max(wanted, default=-1) + 1)
    general = {i: example for i, example in enumerate(stream) if i in wanted}
    sources = Sources(run_plan.task, run_plan.general)
    return [
        (ready.task.train[index] if is_task else general[index], *sources[is_task, index][2:])
        for is_task, index in places
    ]


def _shown(tokenizer: Any, example: Example, ids: Any, prompt_length: int) -> ExamplePreview:
    parts = [ids.tolist(), ids[:prompt_length].tolist(), ids[prompt_length:].tolist()]
    text, prompt, response = tokenizer.batch_decode(parts, clean_up_tokenization_spaces=False)
    if text.startswith(prompt):
        # A response that is decoded alone may lose its leading space.
        response = text[len(prompt) :]
    mask = [int(i >= prompt_length) for i in range(len(ids))]
    return ExamplePreview(example.source, example.origin, prompt, response, parts[0], mask)
