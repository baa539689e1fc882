"""Answer one prompt with llama.cpp, on the GGUF file of the embedded model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

from llama_cpp import Llama

from speed_parts.result import arguments, give


def main() -> None:
    """Measure one run."""
    asked = arguments()
    given = json.loads(Path(asked["prompt"]).read_text(encoding="utf-8"))
    threads = asked["threads"]
    model = Llama(
        asked["gguf"], n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    times, text, tokens = [], "", 0
    for _ in range(asked["repeats"] + 1):
        model.reset()
        began = time.perf_counter()
        answer = model.create_completion(
            given["ids"], max_tokens=asked["new_tokens"], temperature=0.0
        )
        times.append(time.perf_counter() - began)
        text, tokens = answer["choices"][0]["text"].strip(), answer["usage"]["completion_tokens"]
    seconds = median(times[1:])
    give(
        tokens_per_second=round(tokens / seconds, 3),
        seconds=round(seconds, 3),
        tokens=tokens,
        texts=[text],
    )


if __name__ == "__main__":
    main()
