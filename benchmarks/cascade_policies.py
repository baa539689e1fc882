"""Measure the policies of a cascade, levels alone and fixed thresholds on streams.

    python benchmarks/cascade_policies.py          # minutes on one core; finished ways are kept
    python benchmarks/cascade_policies.py --top few_shot --items 300 --orders 3   # 80 minutes
    python benchmarks/cascade_policies.py --top http://localhost:8000/v1#large --items 300

The streams are the embedded tasks with a closed set of labels, in several orders. Without `--top`,
the top's answers are the true labels, so that no language model is needed, and an input costs the
linear level 0.006 and the encoder 0.13 of a call of the top: 0.5 ms and 10.6 ms on one core of an
AMD EPYC, against 80 ms of TELL's adapter (benchmarks/cascade.json).

With `--top`, the top is the base model with examples in its prompt, or a model behind an API. It
and a level that is an adapter of TELL, trained on `--labeled` other examples, answer each input
once, which is kept in runs/cascade_top. The costs are the measured seconds. The ways are:

- a level alone: it learns the first quarter, which the top labels, and answers the rest. The
  adapter learns nothing, and answers all;
- a fixed threshold on the confidence of a level, also the best one in hindsight: the cheapest of
  eight that agrees with the top in 99%;
- cascades with each policy.

The cost of a stream is the share of inputs that the top labels, plus the cost of the levels.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import describe
from telltune.api import fit
from telltune.cli.console import print_table
from telltune.data.embedded import embedded_task
from telltune.data.task import load_task
from telltune.fitting.protocol import Settings
from telltune.inference.api_client import api_client
from telltune.methods.registry import get_method
from telltune.models.loading import load_base_of
from telltune.recipe import ApiSpec, recipe_from_dict
from telltune.research.streams import CascadeSpec, LevelSpec, TopSpec
from telltune.research.streams.cascade import Cascade
from telltune.research.streams.heads import HeadLevel
from telltune.research.streams.levels import LinearLevel
from telltune.research.streams.models import FittedLevel
from telltune.research.streams.records import LabeledItem
from telltune.research.streams.top import Endpoint, LocalModel
from telltune.valuation.embeddings import EMBEDDED_WIDTH, embed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.task import TaskData
    from telltune.research.streams.levels import Level
    from telltune.research.streams.top import Top

HERE = Path(__file__).parent
WORK = HERE.parent / "runs" / "cascade_top"
TASKS = ("answer_kind", "explicit_language", "medical_specialty")
BATCH = 8
COSTS = {"linear": 0.006, "encoder_em": 0.13}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
PROMISED = 0.99


@dataclass(frozen=True)
class Stream:
    """A stream, and what the top and the adapter say about each input.

    Attributes:
        labels: Possible labels.
        top: Label of each input by the top.
        truth: True label of each input.
        costs: Cost of an input at each level, in calls of the top.
        adapter: Likelihood of each label by the adapter for each input; empty without an adapter.
        unread: Number of inputs for which the top gave no label, and which are left out.
    """

    labels: list[str]
    top: dict[str, str]
    truth: dict[str, str]
    costs: dict[str, float] = field(default_factory=lambda: dict(COSTS))
    adapter: dict[str, list[float]] = field(default_factory=dict)
    unread: int = 0


class Replay:
    """Top whose answers are known."""

    threads = False

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels

    def label(self, text: str) -> LabeledItem:
        """Return the label of a text."""
        return LabeledItem(self.labels[text], 0, 0.0)


class ReplayedLevel:
    """Level that does not learn, and whose likelihoods are known."""

    name = "adapter"

    def __init__(self, known: dict[str, list[float]]) -> None:
        self.known = known

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihoods of texts, (texts, labels)."""
        return np.array([self.known[text] for text in texts])

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing."""


class Known:
    """Features of the encoder that were computed once for all orders."""

    kind = "encoder"
    width = EMBEDDED_WIDTH

    def __init__(self) -> None:
        self.vectors: dict[str, NDArray[Any]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of texts, (texts, width)."""
        if new := [text for text in texts if text not in self.vectors]:
            self.vectors |= zip(new, embed(new), strict=True)
        return np.stack([self.vectors[text] for text in texts])


KNOWN = Known()


def main() -> None:
    """Measure the rows that are missing, and print the table."""
    args = arguments()
    results = args.results or HERE / f"cascade_{'top' if args.top else 'policies'}.json"
    found = json.loads(results.read_text()) if results.exists() else {"rows": []}
    done = {(row["stream"], row["way"], row["order"]) for row in found["rows"]}
    found["machine"] = describe()
    for name in args.stream:
        stream = asked(name, args) if args.top else true_stream(name)
        for way, run in ways(stream).items():
            for order in range(args.orders):
                if (name, way, order) in done:
                    continue
                texts = list(np.random.default_rng(order).permutation(list(stream.top)))
                row = {"stream": name, "way": way, "order": order}
                found["rows"].append(row | run(stream, texts, order))
            results.write_text(json.dumps(found, indent=1) + "\n")
    show(found["rows"])


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--top", help="few_shot, or URL#MODEL of an API; else the true labels")
    parser.add_argument("--model", default="embedded", help="base of the adapter and of few_shot")
    parser.add_argument("--key-env", help="environment variable with the key of the API")
    parser.add_argument("--stream", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--items", type=int, default=300, help="inputs of a stream with --top")
    parser.add_argument("--labeled", type=int, default=100, help="examples of the adapter")
    parser.add_argument("--shots", type=int, default=16, help="examples in the top's prompt")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--results", type=Path, help="JSON file for the rows")
    return parser.parse_args()


def true_stream(name: str) -> Stream:
    """Return a stream of a whole task, of which the top knows the true labels."""
    task = embedded_task(name)
    examples = (*task.train, *task.dev, *task.test)
    truth = {example.prompt: example.completion for example in examples}
    return Stream(labels_of(task), truth, truth)


def labels_of(task: TaskData) -> list[str]:
    """Return the labels of a task."""
    return sorted({example.completion for example in task.train})


def asked(name: str, args: argparse.Namespace) -> Stream:
    """Return a stream that a top and an adapter have answered, each input once."""
    key = f"{args.top}-{args.model}-{args.items}-{args.labeled}-{args.shots}"
    folder = WORK / name / "".join(c if c.isalnum() else "-" for c in key)
    kept = folder / "stream.json"
    if kept.exists():
        return Stream(**json.loads(kept.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    task = embedded_task(name)
    rest = [*task.train[args.labeled :], *task.dev, *task.test]
    order = np.random.default_rng(0).permutation(len(rest))[: args.items]
    truth = {rest[i].prompt: rest[i].completion for i in order}
    labels, texts = labels_of(task), list(truth)
    level = FittedLevel(fitted(folder, task, args), labels)
    likely, seconds = {}, {}
    level.likelihoods(texts[:1])  # the first call also prepares the model
    began = time.perf_counter()
    for text in texts:
        likely[text] = level.likelihoods([text])[0].tolist()
    seconds["adapter"] = (time.perf_counter() - began) / len(texts)
    for kind, ask in (("linear", LinearLevel(len(labels)).likelihoods), ("encoder_em", KNOWN)):
        began = time.perf_counter()
        for text in texts:
            ask([text])
        seconds[kind] = (time.perf_counter() - began) / len(texts)
    top = make_top(folder, labels, args)
    top.label(texts[0])
    told = {text: top.label(text) for text in texts}
    each = float(np.mean([one.seconds for one in told.values()]))
    said = {text: one.label for text, one in told.items() if one.label is not None}
    stream = Stream(
        labels,
        said,
        {text: truth[text] for text in said},
        {kind: min(spent / each, 1.0) for kind, spent in seconds.items()},
        likely,
        len(texts) - len(said),
    )
    kept.write_text(json.dumps(asdict(stream)))
    return stream


def fitted(folder: Path, task: TaskData, args: argparse.Namespace) -> Path:
    """Train TELL's adapter on the labeled examples, and return its folder."""
    examples = folder / "labeled.jsonl"
    pairs = [{"prompt": e.prompt, "completion": e.completion} for e in task.train[: args.labeled]]
    examples.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = {
        "model": args.model,
        "task": {"train": str(examples)},
        "general": "embedded",
        "anchor": {"prompt": task.anchor_prompt, "response": task.anchor_response},
        "mixture": {"leverage_ratio": 4, "passes": 4},
        "lora": {"dropout": 0},
        "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if not (folder / "adapter" / "tell.json").exists():
        fit(recipe, folder / "adapter")
    return folder / "adapter"


def make_top(folder: Path, labels: list[str], args: argparse.Namespace) -> Top:
    """Return the top: the base model with examples in its prompt, or a model behind an API."""
    if args.top != "few_shot":
        url, _, model = args.top.partition("#")
        client = api_client(ApiSpec(url=url, model=model, api_key_env=args.key_env))
        return Endpoint(client, labels, "Name the label of the input, nothing else.")
    own = {"few_shot": {"examples": args.shots}, "evaluation": {"answers": "likelihood"}}
    recipe = recipe_from_dict(json.loads((folder / "recipe.json").read_text()) | own)
    task, base = load_task(recipe), load_base_of(recipe)
    settings = Settings(recipe, progress=False)
    return LocalModel(get_method("few_shot").run(task, None, base, settings), labels)


def ways(stream: Stream) -> dict[str, Callable[..., dict[str, Any]]]:
    """Return a function for each way."""
    kinds = [kind for kind in ("linear", "encoder_em", "adapter") if kind in stream.costs]
    found: dict[str, Callable[..., dict[str, Any]]] = {
        f"{kind} alone": partial(alone, kind) for kind in kinds
    }
    found |= {f"linear, fixed {at}": partial(fixed, "linear", at) for at in (0.7, 0.9)}
    both = [("linear",), ("encoder_em",), ("linear", "encoder_em")]
    if stream.adapter:
        found |= {
            f"{kind}, best fixed": partial(best_fixed, kind) for kind in ("linear", "adapter")
        }
        both += [("adapter",), ("linear", "adapter"), ("linear", "encoder_em", "adapter")]
    for levels in both:
        named = " + ".join(levels)
        if levels != ("encoder_em",):
            found[f"{named}, learned"] = partial(cascade, levels, policy="learned")
        promised = partial(cascade, levels, agreement=PROMISED)
        found[f"{named}, threshold {PROMISED}"] = partial(promised, policy="threshold")
        if len(levels) > 1:
            found[f"{named}, cost-aware {PROMISED}"] = partial(promised, policy="cost_aware")
    found["linear, threshold 0.95"] = partial(
        cascade, ("linear",), policy="threshold", agreement=0.95
    )
    return found


def make(kind: str, stream: Stream) -> Level:
    """Return a level."""
    if kind == "linear":
        return LinearLevel(len(stream.labels))
    if kind == "adapter":
        return ReplayedLevel(stream.adapter)
    level = HeadLevel(kind, len(stream.labels))  # type: ignore[arg-type]
    level._features = KNOWN  # type: ignore[assignment]
    return level


def cascade(
    kinds: Sequence[str], stream: Stream, texts: list[str], seed: int, **settings: Any
) -> dict[str, Any]:
    """Run a cascade on a stream."""
    spec = CascadeSpec(
        labels=stream.labels,
        # The kind is that of the model, which is given.
        levels=[LevelSpec(kind="linear", cache=BATCH, cost=stream.costs[kind]) for kind in kinds],
        top=TopSpec(),
        inputs=len(texts),
        seed=seed,
        **settings,
    )
    made = Cascade(spec, levels=[make(kind, stream) for kind in kinds], top=Replay(stream.top))
    said = [answer.text for answer in made.feed(texts)]
    return measured(said, texts, stream, made.asked[-1], made.cost)


def alone(kind: str, stream: Stream, texts: list[str], _: int) -> dict[str, Any]:
    """Train a level on the first quarter, and let it answer the rest; the adapter answers all."""
    level = make(kind, stream)
    first = 0 if kind == "adapter" else len(texts) // 4
    for start in range(0, first, BATCH):
        part = texts[start : min(start + BATCH, first)]
        level.learn(part, [stream.labels.index(stream.top[text]) for text in part])
    guessed = level.likelihoods(texts[first:]).argmax(1)
    said = [stream.top[text] for text in texts[:first]] + [stream.labels[k] for k in guessed]
    cost = stream.costs[kind] * (len(texts) - first)
    return measured(said, texts, stream, first, first + cost)


def fixed(kind: str, threshold: float, stream: Stream, texts: list[str], _: int) -> dict[str, Any]:
    """Ask the top below a confidence of a level, which learns from its labels."""
    level, labels = make(kind, stream), stream.labels
    kept: list[str] = []
    said, calls = [], 0
    for text in texts:
        likely = level.likelihoods([text])[0]
        if likely.max() >= threshold:
            said.append(labels[int(likely.argmax())])
            continue
        calls += 1
        said.append(stream.top[text])
        kept.append(text)
        if len(kept) == BATCH:
            level.learn(kept, [labels.index(stream.top[one]) for one in kept])
            kept = []
    return measured(said, texts, stream, calls, calls + stream.costs[kind] * len(texts))


def best_fixed(kind: str, stream: Stream, texts: list[str], seed: int) -> dict[str, Any]:
    """Return the row of the cheapest threshold that agrees with the top, chosen in hindsight."""
    rows = [
        fixed(kind, at, stream, texts, seed) | {"threshold": at} for at in (*THRESHOLDS, np.inf)
    ]
    kept = [row for row in rows if row["agreement"] >= PROMISED]
    best = max(kept, key=lambda row: row["cost_saved"])
    return best | {"threshold": min(best["threshold"], 1.0)}


def measured(
    said: list[str], texts: list[str], stream: Stream, calls: int, spent: float
) -> dict[str, Any]:
    """Return agreement with the top, the right answers, and the shares of calls and cost saved."""
    same = sum(label == stream.top[text] for label, text in zip(said, texts, strict=True))
    right = sum(label == stream.truth[text] for label, text in zip(said, texts, strict=True))
    return {
        "inputs": len(texts),
        "agreement": round(same / len(texts), 5),
        "right": round(right / len(texts), 5),
        "calls_saved": round(1 - calls / len(texts), 5),
        "cost_saved": round(1 - spent / len(texts), 5),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the means over the orders."""
    table = []
    for name, way in dict.fromkeys((row["stream"], row["way"]) for row in rows):
        part = [row for row in rows if (row["stream"], row["way"]) == (name, way)]
        agreement = np.array([row["agreement"] for row in part])
        saved = np.array([row["cost_saved"] for row in part])
        promise = float(way.split()[-1]) if ("threshold" in way or "aware" in way) else PROMISED
        kept = f"{(agreement >= promise).sum()} of {len(part)}"
        low, high = f"{100 * saved.min():.0f}", f"{100 * saved.max():.0f}"
        shown = f"{100 * agreement.mean():.1f}", kept, f"{100 * saved.mean():.0f} ({low} to {high})"
        table.append((name, way, *shown))
    columns = ("stream", "way", "as the top, %", "at least as promised, or 99%", "cost saved, %")
    print_table("Policies", columns, table)


if __name__ == "__main__":
    main()
