"""Find quanta: first on a toy with known quanta, then on a real task.

    python benchmarks/quanta.py        # the toy: multitask sparse parity, about 5 minutes on a core
    python benchmarks/quanta.py task   # medical_specialty, about 40 minutes more

The toy's rows measure whether each subtask is a cluster of gradients (adjusted Rand index, with its
99th percentile for permuted labels), whether subtasks are learned by frequency (Kendall's tau-b),
and how the loss falls. The task's row is that of `tell quanta benchmarks/quanta.yaml`. Rows of the
toy in quanta.json are not measured again, and the task resumes where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from machine import describe
from quanta_parity import SparseParity, learn_parity, parity_gradients
from telltune.research.quanta.analysis import quanta
from telltune.research.quanta.clusters import cluster_gradients
from telltune.research.quanta.order import kendall_tau, learned_at

HERE = Path(__file__).parent
RESULTS = HERE / "quanta.json"
RECIPE = HERE / "quanta.yaml"
RUN = HERE.parent / "runs" / "quanta"
HELD_OUT = 100
# The paper's input has a 1 for the subtask; here it may be as large as the bit string.
SUBTASKS, BITS = 32, 16
TOYS = [(control, seed) for control in (1.0, BITS**0.5) for seed in (0, 1, 2)]


def main() -> None:
    """Measure what is missing, and print the table."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"toy": [], "task": None}
    done = {(row["control"], row["seed"]) for row in rows["toy"]}
    for control, seed in TOYS:
        if (control, seed) not in done:
            rows["toy"].append(toy(control, seed))
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    if sys.argv[1:] == ["task"]:
        # Some 40 minutes on a core that trains 200 tokens per second.
        report = quanta(RECIPE, out=RUN, reference_tokens=8000, items=64, moments=6)
        rows["task"] = asdict(report) | {"machine": describe()}
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print_rows(rows)


def toy(control: float, seed: int) -> dict[str, object]:
    """Learn sparse parities, cluster gradients, and analyze the order and the loss."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    parity = SparseParity(SUBTASKS, BITS, control=control, seed=seed)
    network, curves = learn_parity(
        parity,
        width=256,
        steps=6000,
        batch_size=1024,
        learning_rate=5e-3,
        moments=120,
        held_out=HELD_OUT,
    )
    shape = (len(curves.steps), SUBTASKS, HELD_OUT)
    likely = np.exp(-curves.losses).reshape(shape).mean(2).T
    learned = learned_at(curves.steps, likely, np.ones(SUBTASKS))
    rows: dict[str, object] = {
        "control": control,
        "seed": seed,
        "learned": int(np.isfinite(learned).sum()),
        "order_tau": round(float(kendall_tau(learned, -parity.frequencies)), 3),
        **scaling(parity, curves.steps, curves.losses.reshape(shape).mean(2), learned),
    }
    for name, answers in (("odd", (1,)), ("both", (0, 1))):
        gradients, subtasks = parity_gradients(network, parity, 40, answers=answers)
        # A subtask that was not learned has no learned samples.
        labels = cluster_gradients(gradients, len(np.unique(subtasks)), seed)
        rng = np.random.default_rng(seed)
        null = [adjusted_rand_score(rng.permutation(subtasks), labels) for _ in range(200)]
        rows[f"rand_{name}"] = round(adjusted_rand_score(subtasks, labels), 3)
        rows[f"null_{name}"] = round(float(np.quantile(null, 0.99)), 3)
        rows[f"samples_{name}"] = len(subtasks)
    return rows | {"seconds": round(time.perf_counter() - began, 1), "machine": describe()}


def scaling(
    parity: SparseParity,
    steps: np.ndarray,
    losses: np.ndarray,
    learned: np.ndarray,
) -> dict[str, float]:
    """Return exponents of power laws: measured, and from theory for this number of subtasks.

    If the n most frequent subtasks are learned, the loss is ln 2 times the frequency of the others.
    It falls as n^-alpha for infinitely many subtasks, and faster for few.
    """
    loss = losses @ parity.frequencies
    count = (learned[None, :] <= steps[:, None]).sum(1)
    inside = (count >= 2) & (count <= SUBTASKS // 2)
    left = np.log(2) * (1 - np.cumsum(parity.frequencies))
    n = np.log(count[inside])
    known = np.isfinite(learned)
    return {
        "loss_by_quanta": slope(n, np.log(loss[inside])),
        "loss_by_quanta_theory": slope(n, np.log(left[count[inside] - 1])),
        "loss_by_steps": slope(np.log(steps[inside]), np.log(loss[inside])),
        "steps_by_frequency": slope(np.log(parity.frequencies[known]), np.log(learned[known])),
    }


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Return the slope of the straight line with the best fit."""
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def print_rows(rows: dict[str, object]) -> None:
    """Print the tables."""
    heads = ("rand_odd", "null_odd", "rand_both", "learned", "order_tau", "loss_by_quanta")
    heads += ("loss_by_quanta_theory", "loss_by_steps", "steps_by_frequency", "seconds")
    print("control seed " + " ".join(heads))
    for row in rows["toy"]:
        values = " ".join(f"{row[head]:>{len(head)}}" for head in heads)
        print(f"{row['control']:>7} {row['seed']:>4} {values}")
    if rows["task"]:
        print("\nmethod              tau   95% interval   against the first")
        for row in rows["task"]["methods"]:
            values = [row[k] for k in ("tau", "low", "high")]
            values += [row[f"difference{k}"] for k in ("", "_low", "_high")]
            said = [f"{v:6.2f}" if v is not None else "     -" for v in values]
            print(f"{row['method']:18}" + "{} ({} to {}) {} ({} to {})".format(*said))


if __name__ == "__main__":
    main()
