"""Fit SetFit on labeled texts and label others; runs where setfit is installed.

python answer.py ENCODER CELL.json ANSWERS.json
"""

import json
import sys
import time
from pathlib import Path

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main() -> None:
    encoder, cell, out = sys.argv[1:]
    given = json.loads(Path(cell).read_text())
    labels = sorted(set(given["labels"]))
    began = time.monotonic()
    model = SetFitModel.from_pretrained(encoder, labels=labels)
    numbers = [labels.index(label) for label in given["labels"]]
    trainer = Trainer(
        model=model,
        # Other settings are SetFit's defaults: one epoch of pairs, then logistic regression.
        args=TrainingArguments(
            seed=given["seed"],
            report_to="none",
            save_strategy="no",
            output_dir=str(Path(out).parent),
        ),
        train_dataset=Dataset.from_dict({"text": given["texts"], "label": numbers}),
    )
    trainer.train()
    answers = [str(answer) for answer in model.predict(given["asked"])]
    seconds = time.monotonic() - began
    Path(out).write_text(json.dumps({"answers": answers, "seconds": seconds}))


if __name__ == "__main__":
    main()
