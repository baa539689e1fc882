"""The eight tasks of TRACE (arXiv 2310.06762), read from its own files.

The benchmark is a folder with one folder per task, each with train.json, eval.json and test.json:
lists of objects with `prompt` and `answer`. The prompts contain the instruction, so the tasks have
no anchor. eval.json is not read, because dev data would stop the training early.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt

from telltune.errors import DataError
from telltune.recipe.base import ConfigModel
from telltune.study.spec import TaskEntry

TRACE_METRICS = {
    "C-STANCE": "exact_match",
    "FOMC": "exact_match",
    "MeetingBank": "rouge_l",
    "Py150": "edit_similarity",
    "ScienceQA": "answer_letter",
    "NumGLUE-cm": "exact_match",
    "NumGLUE-ds": "exact_match",
    "20Minuten": "sari",
}
"""Metric of each task in the paper's tables, in the order of training."""


class TraceSpec(ConfigModel):
    """TRACE's benchmark."""

    folder: str
    """Folder with a folder per task."""
    max_examples: PositiveInt | None = None
    """Maximum number of training examples of each task, drawn by seed. All by default (5,000)."""


def trace_tasks(spec: TraceSpec, folder: Path) -> list[TaskEntry]:
    """Return the eight tasks in the published order, each with the metric of the paper's tables.

    Args:
        spec: The benchmark.
        folder: Folder that a relative path starts from.

    Raises:
        DataError: A file is missing.
    """
    root = folder / Path(spec.folder).expanduser()
    found = []
    for name, metric in TRACE_METRICS.items():
        files = {split: root / name / f"{split}.json" for split in ("train", "test")}
        for path in files.values():
            if not path.is_file():
                raise DataError(
                    f"{path} is missing; restore it, or name the tasks that you have under `tasks` "
                    "in place of `trace`."
                )
        task = {split: str(path.resolve()) for split, path in files.items()}
        keys = {
            "task": task | {"max_examples": spec.max_examples},
            "anchor": None,
            "evaluation": {"metrics": [metric]},
        }
        found.append(TaskEntry(name=name, keys=keys))
    return found
