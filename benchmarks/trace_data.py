"""Write eight tasks in the form of TRACE's files, made from embedded data.

    python benchmarks/trace_data.py runs/trace   # in seconds
    tell continual benchmarks/trace.yaml --out runs/trace/out

TRACE's own files are on Google Drive, which not every machine reaches. These have the same folders,
splits and forms: the instruction is in the prompt, choices are letters, and ScienceQA has reasons
after its answer. Only the tasks differ: each stands for one of the same kind of answer and metric.
Scores are not those of TRACE.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.embedded import embedded_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.data.examples import Example

STANDS_FOR = {
    "C-STANCE": "explicit_language",
    "FOMC": "medical_specialty",
    "MeetingBank": "restore_text",
    "Py150": "mention_json",
    "ScienceQA": "answer_kind",
    "NumGLUE-cm": "equation",
    "NumGLUE-ds": "open_question",
    "20Minuten": "fluent_question",
}
"""Embedded task that stands for each of TRACE's tasks."""
CHOICES = {
    "C-STANCE": "Choose the kind of the following comment. Answer with its letter.",
    "FOMC": "Choose the specialty of the following exam question. Answer with its letter.",
    "ScienceQA": "Choose the kind of answer that the following question asks for, and give your "
    "reasons.",
}
"""Instruction of the tasks with letters as answers."""


def main() -> None:
    """Write the folders to the path on the command line."""
    root = Path(sys.argv[1])
    for name, embedded in STANDS_FOR.items():
        task = embedded_task(embedded)
        as_row = chooser(name) if name in CHOICES else written(name)
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for split, examples in (("train", task.train), ("eval", task.dev), ("test", task.test)):
            rows = [as_row(example) for example in examples]
            text = json.dumps(rows, ensure_ascii=False, indent=1)
            (folder / f"{split}.json").write_text(text + "\n", encoding="utf-8")


def written(name: str) -> Callable[[Example], dict[str, str]]:
    """Return a function that makes a row of a task with a written answer."""
    task = embedded_task(STANDS_FOR[name])

    def as_row(example: Example) -> dict[str, str]:
        prompt = f"{task.anchor_prompt}\n{example.prompt}\nAnswer:"
        return {"prompt": prompt, "answer": example.completion}

    return as_row


def chooser(name: str) -> Callable[[Example], dict[str, str]]:
    """Return a function that makes a row of a task with letters as answers."""
    task = embedded_task(STANDS_FOR[name])
    labels = sorted({example.completion for example in task.train})
    letters = {label: chr(ord("A") + place) for place, label in enumerate(labels)}
    choices = "\n".join(f"{letter}. {label}" for label, letter in letters.items())

    def as_row(example: Example) -> dict[str, str]:
        letter = letters[example.completion]
        prompt = f"{CHOICES[name]}\nText: {example.prompt}\nChoices:\n{choices}\n"
        if name == "ScienceQA":
            reason = f"Answer: {letter}\nBecause this is about: {example.completion}."
            return {"prompt": prompt, "answer": reason}
        return {"prompt": f"{prompt}Choice:", "answer": letter}

    return as_row


if __name__ == "__main__":
    main()
