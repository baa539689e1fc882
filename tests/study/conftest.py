"""Fixtures for tests of studies: simulated answers and written studies with a known truth."""

import itertools
import json
import re
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from telltune.evaluation.metrics import mean_of
from telltune.study.results import ANSWERS, ResultRow, Results
from telltune.study.spec import ForgettingSpec


@pytest.fixture
def few_asked(monkeypatch):
    """Let searches measure the forgetting of finalists on few examples, without answers."""
    few = ForgettingSpec(examples=4, prompts=0)
    monkeypatch.setattr("telltune.study.search._BESIDE", few)


@pytest.fixture
def simulate():
    """Return a function that simulates right and wrong answers.

    The learning curve is logistic over log tokens. An item has one difficulty for all runs, and
    another for all seeds of a point. `luck` is the standard deviation between seeds, in logits (0.2
    is about 4 points of score).
    """

    def build(rng, log_tokens, seeds=3, items=200, luck=0.2, slope=1.2):
        shape = (len(log_tokens), seeds, items)
        logits = (
            slope * (np.asarray(log_tokens)[:, None, None] - np.log(2e4))
            + rng.normal(0, 1.5, (1, 1, items))
            + rng.normal(0, 0.7, (len(log_tokens), 1, items))
            + rng.normal(0, luck, (len(log_tokens), seeds, 1))
        )
        right = rng.random(shape) < 1 / (1 + np.exp(-logits))
        return [[mean_of(100.0 * run) for run in runs] for runs in right]

    return build


@pytest.fixture(scope="session")
def write_study():
    """Return a function that writes a study's folder, and returns its rows.

    The methods differ by known `logits`; base and the references ignore the ratio. Methods in
    `failed` get no score.
    """

    def write(
        folder,
        logits=MappingProxyType({"base": -2.0, "sft_anchor": 0.0, "tell": 1.0}),
        tasks=("routing", "shapes"),
        sizes=(3000, 10000, 30000),
        ratios=(5.0, 20.0),
        seeds=(0, 1, 2),
        failed=(),
        items=120,
        prompt="item {}",
    ):
        rng = np.random.default_rng(0)
        results = Results(folder)
        difficulty = rng.normal(0, 1, (len(tasks), items))
        for (t, task), name in itertools.product(enumerate(tasks), logits):
            trained, mixes = name != "base", name.startswith("tell")
            for size, ratio, seed in itertools.product(
                sizes if trained else [None],
                ratios if mixes else [None],
                seeds if trained else [0],
            ):
                # A name that a file can have, for all names of tasks and methods.
                key = re.sub(r"\W", "_", f"{task}-{name}-{size}-{ratio}-{seed}")
                row = ResultRow(
                    key, "failed", task, name, name, size, ratio, seed, reason=f"{name}: no memory"
                )
                if name in failed:
                    results.append(row)
                    continue
                logit = logits[name] + 1.2 * np.log((size or 10000) / 10000)
                logit += 0.3 * np.log((ratio or 5.0) / 5.0) + rng.normal(0, 0.1)
                right = rng.random(items) < 1 / (1 + np.exp(difficulty[t] - logit))
                answers = [
                    {
                        "prompt": prompt.replace("{}", str(i)),
                        "reference": f"label {i % 3}",
                        "prediction": f"label {i % 3}" if right[i] else "something else",
                        "scores": {"accuracy": 100.0 * right[i]},
                    }
                    for i in range(items)
                ]
                path = folder / ANSWERS / f"{key}.jsonl"
                path.parent.mkdir(exist_ok=True, parents=True)
                path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
                tokens = (size or 0) - 20
                general = int(tokens * (ratio or 0))
                steps = list(range(10, 210, 10)) if trained else []
                results.append(
                    replace(
                        row,
                        status="done",
                        reason="",
                        metric="accuracy",
                        scores={"accuracy": {"score": 100 * right.mean(), "low": 0, "high": 0}},
                        per_item={"accuracy": (100.0 * right).tolist()},
                        counts={
                            "task_tokens": max(tokens, 0),
                            "general_tokens": max(general, 0),
                            "optimizer_steps": len(steps) * 10,
                        },
                        forgetting={
                            "general_nll_before": 2.4,
                            "general_nll_after": 2.4 + (0.02 if mixes else 0.3) * trained,
                            "leakage_before": 0.0,
                            "leakage_after": (0.05 if mixes else 0.6) * trained,
                        },
                        seconds={
                            "training": 0.01 * general + 0.02 * max(tokens, 0),
                            "answering": 42.0,
                            "general": 11.0,
                            "other": 0.8,
                        },
                        curve={
                            "step": steps,
                            "task": [3 * 0.99**step for step in steps],
                            **(
                                {
                                    "general": [2.5 - step / 2000 for step in steps[:-1]] + [None],
                                    "weight_task": [1 + step / 1000 for step in steps],
                                    "weight_general": [1 - step / 2000 for step in steps],
                                }
                                if mixes
                                else {}
                            ),
                        }
                        if trained
                        else {},
                        hashes={"train": f"train-{task}-{seed}", "test": f"test-{task}"}
                        | {"model": "embedded", "base": "0123abcd"},
                        versions={"telltune": "0.1.0", "torch": "2.13.0"},
                        recipe={"method": name, "mixture": {"leverage_ratio": ratio}},
                    )
                )
        return results.rows

    return write
