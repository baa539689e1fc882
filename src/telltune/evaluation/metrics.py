"""Public interface of the metrics. Importing this module registers all built-in metrics.

    from telltune.evaluation.metrics import get_metric

    scored = get_metric("macro_f1")(predictions, references)
    scored.score, scored.per_item

`registry` describes how to add a metric, `text` and `structured` contain the functions, and
`docs/reference/metrics.md` lists them for users.
"""

from __future__ import annotations

from telltune.evaluation.registry import Floats as Floats
from telltune.evaluation.registry import Metric as Metric
from telltune.evaluation.registry import Scored as Scored
from telltune.evaluation.registry import get_metric as get_metric
from telltune.evaluation.registry import mean_of as mean_of
from telltune.evaluation.registry import metric as metric
from telltune.evaluation.registry import metric_names as metric_names
from telltune.evaluation.structured import accuracy as accuracy
from telltune.evaluation.structured import answer_letter as answer_letter
from telltune.evaluation.structured import balanced_accuracy as balanced_accuracy
from telltune.evaluation.structured import json_field_accuracy as json_field_accuracy
from telltune.evaluation.structured import json_valid as json_valid
from telltune.evaluation.structured import macro_f1 as macro_f1
from telltune.evaluation.text import bleu as bleu
from telltune.evaluation.text import chrf as chrf
from telltune.evaluation.text import edit_similarity as edit_similarity
from telltune.evaluation.text import exact_match as exact_match
from telltune.evaluation.text import fold as fold
from telltune.evaluation.text import rouge_l as rouge_l
from telltune.evaluation.text import sari as sari
from telltune.evaluation.text import token_f1 as token_f1
