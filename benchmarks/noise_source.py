"""Measure whether learned weights of sources find noise in a task's data, and help.

    python benchmarks/noise_source.py      # 14 minutes on two cores; finished cells are kept

medical_specialty is split into two files: `good.jsonl` has half of its training examples, and
`noise.jsonl` the other half with random labels. SFT + anchor trains on both at 6,324 task tokens
with equal weights, ALF1 and ALF2. It also trains on the good half alone at half of the tokens, the
best that a user who knows the noise can do. Rows and the curves of the weights are written to
runs/noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml

from telltune.cli.console import print_table
from telltune.data.embedded import embedded_task
from telltune.study.verbs import run_study

HERE = Path(__file__).parent
OUT = HERE.parent / "runs" / "noise"
FILES = HERE.parent / "runs" / "noise_data"
TASK = "medical_specialty"
TOKENS = 3162


def main() -> None:
    """Write the files, run what is missing, and print the table."""
    task = embedded_task(TASK)
    FILES.mkdir(parents=True, exist_ok=True)
    half = len(task.train) // 2
    labels = sorted({example.completion for example in task.train})
    random = np.random.default_rng(0)
    write("good", [(e.prompt, e.completion) for e in task.train[:half]])
    write("noise", [(e.prompt, str(random.choice(labels))) for e in task.train[half:]])
    write("test", [(e.prompt, e.completion) for e in task.test])
    file = FILES / "study.yaml"
    file.write_text(yaml.safe_dump(study(), sort_keys=False), encoding="utf-8")
    _, rows = run_study(file, OUT)
    table = []
    for name in dict.fromkeys((row.task, row.name) for row in rows):
        found = [row for row in rows if (row.task, row.name) == name]
        weights = {
            source.removeprefix("weight_"): fmean(row.curve[source][-1] or 0 for row in found)
            for source in found[0].curve
            if source.startswith("weight_")
        }
        told = ", ".join(f"{source} {weight:.2f}" for source, weight in weights.items())
        table.append((*name, f"{fmean(row.score for row in found):.1f}", told or "-"))
    print_table("Half of the data is noise", ("data", "method", "accuracy", "last weights"), table)


def write(name: str, pairs: list[tuple[str, str]]) -> None:
    """Write a JSONL file."""
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in pairs]
    (FILES / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def study() -> dict[str, object]:
    """Return a study on both halves, and on the good half alone."""
    path = {name: str(FILES / f"{name}.jsonl") for name in ("good", "noise", "test")}
    task = embedded_task(TASK)
    anchor = {"prompt": task.anchor_prompt, "response": task.anchor_response}
    evaluation = {"max_items": 200, "metrics": ["accuracy"]}
    shared = {"anchor": anchor, "evaluation": evaluation}

    methods = [
        {
            "method": "sft_anchor",
            "name": f"sft_anchor, {kind}" if kind else "sft_anchor",
            "set": {"training.source_weights": kind} if kind else {},
        }
        for kind in (None, "alf1", "alf2")
    ]
    good = {"name": "good half", "task": {"train": [path["good"]], "test": path["test"]}}
    both = {
        "name": "with noise",
        "task": {"train": [path["good"], path["noise"]], "test": path["test"]},
    }
    return {
        "recipe": {
            "task": TASK,
            # Weights differ between sources after some forty steps; these are twice as many.
            "mixture": {"passes": 8},
            "lora": {"dropout": 0},
            "training": {
                "learning_rate": 1e-3,
                "micro_batch_tokens": 4096,
                "save_steps": 1_000_000,
            },
        },
        "tasks": [good | shared, both | shared],
        "methods": methods[:1],
        "sizes": [TOKENS],
        "seeds": [0, 1, 2],
        # With the noise, as many tokens are good as in `good half`, and as many are noise.
        "more": [{"tasks": ["with noise"], "methods": methods, "sizes": [2 * TOKENS]}],
        "forgetting": {"examples": 0, "prompts": 0},
    }


if __name__ == "__main__":
    main()
