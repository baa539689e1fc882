"""Run the paper's own data on the embedded model: base + anchor against TELL.

    python benchmarks/official.py            # all three recipes, about 20 minutes on two cores
    python benchmarks/official.py tell-halu  # one

Rows in official.json are kept and not run again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from machine import describe
from telltune import compare, load_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "official.json"
RECIPES = ("tell-en-is", "tell-is-en", "tell-halu")


def main() -> None:
    """Run what is missing, and print the table."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {row["recipe"] for row in results}
    for name in sys.argv[1:] or RECIPES:
        if name in done:
            continue
        recipe = load_recipe(HERE.parent / "recipes" / f"{name}.yaml")
        with tempfile.TemporaryDirectory() as folder:
            rows = compare(recipe, ("base_anchor", "tell"), out=Path(folder) / name)
        results += [{"recipe": name, **asdict(row), "machine": describe()} for row in rows]
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for row in results:
        interval = f"[{row['low']:.1f}, {row['high']:.1f}]"
        print(
            f"{row['recipe']:12} {row['method']:12} {row['metric']:10} {row['score']:6.1f} "
            f"{interval:14} {row['task_tokens']:>7} {row['general_tokens']:>7} {row['seconds']:>7}"
        )


if __name__ == "__main__":
    main()
