"""Measure the policies of a cascade on streams of which the top knows all labels.

    python benchmarks/cascade_policies.py   # minutes on one core; finished ways are kept

The streams are the embedded tasks with a closed set of labels, each in five orders. The top's
answers are the true labels, so that no language model is needed. The ways are:

- a level alone: it learns the first quarter, which the top labels, and answers the rest;
- a fixed threshold on the confidence of the linear level;
- cascades with each policy.

The cost of a stream is the share of inputs that the top labels, plus the cost of the levels. An
input costs the linear level 0.006 and the encoder 0.13 of a call of the top: 0.5 ms and 10.6 ms on
one core of an AMD EPYC, against 80 ms of TELL's adapter (benchmarks/cascade.json).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from machine import describe
from telltune.cli.console import print_table
from telltune.data.embedded import embedded_task
from telltune.research.streams import Cascade, LinearLevel, Rung
from telltune.research.streams.heads import HeadLevel
from telltune.research.streams.top import LabeledItem
from telltune.valuation.embeddings import EMBEDDED_WIDTH, embed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.research.streams import Level

HERE = Path(__file__).parent
RESULTS = HERE / "cascade_policies.json"
TASKS = ("answer_kind", "explicit_language", "medical_specialty")
ORDERS = 5
BATCH = 8
COSTS = {"linear": 0.006, "encoder_em": 0.13}


class Truth:
    """Top whose answers are the true labels."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels

    def label(self, text: str) -> LabeledItem:
        """Return the label of a text."""
        return LabeledItem(self.labels[text], 0, 0.0)


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
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    done = {(row["stream"], row["way"], row["order"]) for row in found["rows"]}
    found["machine"] = describe()
    for name, labels in streams().items():
        for way, run in ways().items():
            for order in range(ORDERS):
                if (name, way, order) in done:
                    continue
                texts = list(np.random.default_rng(order).permutation(list(labels)))
                found["rows"].append({"stream": name, "way": way, "order": order})
                found["rows"][-1] |= run(texts, labels, order)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    show(found["rows"])


def streams() -> dict[str, dict[str, str]]:
    """Return the streams: the label of each text."""
    found: dict[str, dict[str, str]] = {}
    for name in TASKS:
        task = embedded_task(name)
        examples = (*task.train, *task.dev, *task.test)
        found[name] = {example.prompt: example.completion for example in examples}
    return found


def ways() -> dict[str, Callable[..., dict[str, Any]]]:
    """Return a function for each way."""
    linear, both = ("linear",), ("linear", "encoder_em")
    found: dict[str, Callable[..., dict[str, Any]]] = {
        f"{kind} alone": alone(kind) for kind in ("linear", "encoder_em")
    }
    found |= {f"linear, fixed {at}": fixed(at) for at in (0.7, 0.9)}
    for kinds in (linear, ("encoder_em",), both):
        named = " + ".join(kinds)
        if kinds != ("encoder_em",):
            found[f"{named}, learned"] = cascade(kinds, policy="learned")
        found[f"{named}, threshold 0.99"] = cascade(kinds, policy="threshold", agreement=0.99)
    found["linear, threshold 0.95"] = cascade(linear, policy="threshold", agreement=0.95)
    named = "linear + encoder_em, cost-aware 0.99"
    found[named] = cascade(both, policy="cost_aware", agreement=0.99)
    return found


def make(kind: str, labels: int) -> Level:
    """Return a level."""
    if kind == "linear":
        return LinearLevel(labels)
    level = HeadLevel(kind, labels)  # type: ignore[arg-type]
    if kind.startswith("encoder"):
        level._features = KNOWN  # type: ignore[assignment]
    return level


def cascade(kinds: Sequence[str], **settings: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a cascade on a stream."""

    def run(texts: list[str], truth: dict[str, str], seed: int) -> dict[str, Any]:
        labels = sorted(set(truth.values()))
        rungs = [Rung(make(kind, len(labels)), BATCH, cost=COSTS[kind]) for kind in kinds]
        made = Cascade(labels, rungs, Truth(truth), inputs=len(texts), seed=seed, **settings)
        said = [decision.label for decision in made.feed(texts)]
        spent = made.asked[-1] + sum(
            COSTS[kind] * count for kind, count in zip(kinds, made.asked[:-1], strict=True)
        )
        return measured(said, texts, truth, made.asked[-1], spent)

    return run


def alone(kind: str) -> Callable[..., dict[str, Any]]:
    """Return a function that trains a level on the first quarter, and lets it answer the rest."""

    def run(texts: list[str], truth: dict[str, str], _: int) -> dict[str, Any]:
        labels = sorted(set(truth.values()))
        level, first = make(kind, len(labels)), len(texts) // 4
        for start in range(0, first, BATCH):
            part = texts[start : min(start + BATCH, first)]
            level.learn(part, [labels.index(truth[text]) for text in part])
        guessed = level.likelihoods(texts[first:]).argmax(1)
        said = [truth[text] for text in texts[:first]] + [labels[k] for k in guessed]
        cost = COSTS.get(kind, COSTS["linear"]) * (len(texts) - first)
        return measured(said, texts, truth, first, first + cost)

    return run


def fixed(threshold: float) -> Callable[..., dict[str, Any]]:
    """Return a function that asks the top below a confidence of the linear level."""

    def run(texts: list[str], truth: dict[str, str], _: int) -> dict[str, Any]:
        labels = sorted(set(truth.values()))
        level, kept, asked, said = LinearLevel(len(labels)), [], 0, []
        for text in texts:
            likely = level.likelihoods([text])[0]
            if likely.max() >= threshold:
                said.append(labels[int(likely.argmax())])
                continue
            asked += 1
            said.append(truth[text])
            kept.append(text)
            if len(kept) == BATCH:
                level.learn(kept, [labels.index(truth[one]) for one in kept])
                kept = []
        return measured(said, texts, truth, asked, asked + COSTS["linear"] * len(texts))

    return run


def measured(
    said: list[str], texts: list[str], truth: dict[str, str], asked: int, spent: float
) -> dict[str, Any]:
    """Return agreement with the top, and the shares of calls and of cost that were saved."""
    same = sum(label == truth[text] for label, text in zip(said, texts, strict=True))
    return {
        "inputs": len(texts),
        "agreement": round(same / len(texts), 5),
        "calls_saved": round(1 - asked / len(texts), 5),
        "cost_saved": round(1 - spent / len(texts), 5),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the means over the orders."""
    table = []
    for name, way in dict.fromkeys((row["stream"], row["way"]) for row in rows):
        part = [row for row in rows if (row["stream"], row["way"]) == (name, way)]
        agreement = np.array([row["agreement"] for row in part])
        saved = np.array([row["cost_saved"] for row in part])
        promise = float(way.split()[-1]) if ("threshold" in way or "aware" in way) else 0.99
        kept = f"{(agreement >= promise).sum()} of {len(part)}"
        low, high = f"{100 * saved.min():.0f}", f"{100 * saved.max():.0f}"
        shown = f"{100 * agreement.mean():.1f}", kept, f"{100 * saved.mean():.0f} ({low} to {high})"
        table.append((name, way, *shown))
    columns = ("stream", "way", "as the top, %", "at least as promised, or 99%", "cost saved, %")
    print_table("Policies", columns, table)


if __name__ == "__main__":
    main()
