"""Parts that answer: many items in batches, and one prompt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speed_parts.reading import Result, measured, quickest, why_not
from speed_parts.setting import TASKS
from speed_parts.table import Line

if TYPE_CHECKING:
    from pathlib import Path

    from speed_parts.rows import Rows
    from speed_parts.setting import Setting

GOALS = {"batch": ">= 6", "best": ">= 3", "stream": ">= 2"}


def evaluate(rows: Rows, setting: Setting) -> list[Line]:
    """Compare answering 200 test items with an adapter and a 150-token anchor to `generate`."""
    lines = []
    best_batch, merged = None, False
    for task in TASKS:
        folder, prompts = setting.adapter(task)
        asked = {
            "kind": "evaluate",
            "adapter": folder,
            "items": setting.sizes.items,
            "new_tokens": setting.sizes.new_tokens,
        }
        ours = rows.measure(
            "evaluate", f"ours {task}", "ours_generate", setting.ours, asked | {"task": task}
        )

        def peer(
            batch: int,
            *,
            merge: bool = False,
            asked: Any = asked,
            prompts: Path = prompts,
            task: str = task,
        ) -> Result:
            return rows.measure(
                "evaluate",
                f"transformers {task} batch {batch}{' merged' if merge else ''}",
                "peer_generate",
                setting.trl,
                asked
                | {
                    "model": setting.model,
                    "dtype": "fp32",
                    "prompts": prompts,
                    "batch": batch,
                    "merged": merge,
                },
            )

        first = peer(setting.sizes.batches[0])
        if best_batch is None:
            # Merging the adapter is a separate row, measured with the best batch size.
            tried = {batch: peer(batch) for batch in setting.sizes.batches}
            best_batch = quickest(tried, "items_per_second") or setting.sizes.batches[0]
            with_merge = {m: peer(best_batch, merge=m) for m in (False, True)}
            merged = bool(quickest(with_merge, "items_per_second"))
        best = peer(best_batch, merge=merged)
        how = f"batch {best_batch}{', adapter merged' if merged else ''}"
        lines += [
            Line(
                f"evaluation of {task}, batch {setting.sizes.batches[0]}",
                (ours or {}).get("items_per_second"),
                (first or {}).get("items_per_second"),
                GOALS["batch"],
                "items/s",
                f"{setting.sizes.items} items, 150-token anchor, LoRA, fp32, greedy, "
                f"{setting.sizes.new_tokens} new tokens at most; generate"
                f"{why_not(ours)}{why_not(first)}",
            ),
            Line(
                f"evaluation of {task}, best batch",
                (ours or {}).get("items_per_second"),
                (best or {}).get("items_per_second"),
                GOALS["best"],
                "items/s",
                f"generate, {how}{why_not(best)}",
            ),
            _same_texts(task, ours, first, best, how),
        ]
    return lines


def stream(rows: Rows, setting: Setting) -> list[Line]:
    """Compare the speed on one prompt."""
    asked = {
        "kind": "one",
        "prompt": setting.prompt(),
        "new_tokens": setting.sizes.one_tokens,
        "repeats": setting.sizes.repeats,
    }
    typed = asked | {"dtype": setting.dtype}
    ours = rows.measure("stream", "ours", "ours_generate", setting.ours, typed)
    peer = rows.measure(
        "stream", "transformers", "peer_generate", setting.trl, typed | {"model": setting.model}
    )
    there = setting.llama_cpp.exists()
    threads = int(rows.machine["cores"])
    reference = rows.measure(
        "stream",
        "llama.cpp",
        "peer_llama_cpp",
        setting.llama_cpp if there else None,
        asked | {"gguf": setting.gguf(), "threads": threads},
    )
    same = measured(ours) and measured(peer) and ours["texts"] == peer["texts"]
    shape = f"{setting.sizes.one_prompt} tokens in, {setting.sizes.one_tokens} out, prefill counted"
    return [
        Line(
            "one stream against transformers generate",
            (ours or {}).get("tokens_per_second"),
            (peer or {}).get("tokens_per_second"),
            GOALS["stream"],
            "tokens/s",
            f"{shape}, {setting.dtype}; texts {'the same' if same else 'differ'}"
            f"{why_not(ours)}{why_not(peer)}",
        ),
        Line(
            "one stream against llama.cpp",
            (ours or {}).get("tokens_per_second"),
            (reference or {}).get("tokens_per_second"),
            "",
            "tokens/s",
            f"reference: on Q4_1 weights, a sixth to read; {threads} threads{why_not(reference)}"
            if there
            else setting.why_missing(setting.llama_cpp),
        ),
    ]


def _same_texts(task: str, ours: Result, first: Result, best: Result, how: str) -> Line:
    """Compare the texts of the answers."""
    name = f"evaluation of {task}, share of identical answers"
    if not measured(ours) or not measured(first):
        return Line(name, None, None, ">= 0.99", "share", "not measured")
    pairs = list(zip(ours["texts"], first["texts"], strict=True))
    differing = [{"item": i, "ours": a, "peer": b} for i, (a, b) in enumerate(pairs) if a != b]
    note = f"{len(differing)} of {len(pairs)} differ from generate at the smallest batch"
    if measured(best):
        own = sum(a != b for a, b in zip(first["texts"], best["texts"], strict=True))
        note += f"; generate's own answers differ in {own} between that and {how}"
    return Line(
        name, round(1 - len(differing) / len(pairs), 4), 1.0, ">= 0.99", "share", note, differing
    )
