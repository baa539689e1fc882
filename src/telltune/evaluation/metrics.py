"""Public interface of the metrics. Importing this module registers all built-in metrics.

    from telltune.evaluation.metrics import get_metric

    scored = get_metric("macro_f1")(predictions, references)
    scored.score, scored.per_item

`registry` describes how to add a metric, `text` and `structured` contain the functions, and
`docs/reference/metrics.md` lists them for users.
"""

from __future__ import annotations

from telltune.evaluation.registry import (
    Floats,
    Metric,
    Scored,
    get_metric,
    mean_of,
    metric,
    metric_names,
)
from telltune.evaluation.structured import (
    accuracy,
    answer_letter,
    balanced_accuracy,
    json_field_accuracy,
    json_valid,
    macro_f1,
)
from telltune.evaluation.text import (
    bleu,
    chrf,
    edit_similarity,
    exact_match,
    fold,
    rouge_l,
    sari,
    token_f1,
)

__all__ = [
    "Floats",
    "Metric",
    "Scored",
    "accuracy",
    "answer_letter",
    "balanced_accuracy",
    "bleu",
    "chrf",
    "edit_similarity",
    "exact_match",
    "fold",
    "get_metric",
    "json_field_accuracy",
    "json_valid",
    "macro_f1",
    "mean_of",
    "metric",
    "metric_names",
    "rouge_l",
    "sari",
    "token_f1",
]
