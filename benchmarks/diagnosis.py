"""Inject real failures, and count those that `tell diagnose` names.

    python benchmarks/diagnosis.py logs     # 10 minutes, as root: writes the logs of the tests
    python benchmarks/diagnosis.py          # 5 s: the confusion table of the logs held apart

The rules were written with the logs in `tests/research/diagnosis/logs/seen`. The logs in `apart/`
come from other programs, libraries and kinds of failure, and were read for the table only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from diagnosis_parts.faults import FAULTS, Fault

HERE = Path(__file__).parent
LOGS = HERE.parent / "tests" / "research" / "diagnosis" / "logs"
RESULTS = HERE / "diagnosis.json"
RIGHTS = "-dac_override,-dac_read_search"
"""Capabilities removed from root, so that it has no more access than other users."""


def main() -> None:
    """Make the logs, or judge them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["logs", "table"], default="table")
    parser.add_argument("--only", help="Make only the log of this name.")
    options = parser.parse_args()
    if options.what == "logs":
        for fault in FAULTS:
            if options.only in (None, fault.name):
                inject(fault)
        return
    found = {name: judge(apart=apart) for name, apart in (("seen", False), ("apart", True))}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for name, table in found.items():
        print(name, {k: v for k, v in table.items() if k != "confusion"})
        for row in table["confusion"]:
            if row["cause"] != row["named"]:
                print("  ", row)


def inject(fault: Fault) -> None:
    """Run a program that fails, and keep its output."""
    with tempfile.TemporaryDirectory() as folder:
        work, small = Path(folder) / "run", Path(folder) / "small"
        build_run_plan(work)
        small.mkdir()
        (work / "locked").mkdir(mode=0o000)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
        code = fault.code.replace("{work}", str(work)).replace("{small}", str(small))
        script = work / ("job.sh" if code.startswith("#!") else "train.py")
        script.write_text(code)
        command = ["bash" if code.startswith("#!") else sys.executable, str(script)]
        if fault.without_rights:
            command = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}", *command]
        paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": paths, "OMP_NUM_THREADS": "1"}
        try:
            ran = subprocess.run(
                command,
                cwd=work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=90,
            )
            said = ran.stdout
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
        finally:
            subprocess.run(["umount", small], check=True)
    # The folder has no meaning for a diagnosis.
    for path, name in ((folder, "/work"), (str(Path(sys.prefix).parent), "/home/ann")):
        said = said.replace(path, name)
    said = re.sub(r"/root/\.pyenv/versions/[\d.]+", "/usr", said)
    place = LOGS / ("apart" if fault.apart else "seen")
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{fault.cause}.{fault.name}.log").write_text(said)
    told = "held apart" if fault.apart else repr(said.strip()[-100:])
    print(f"{fault.name}: {len(said.splitlines())} lines, {told}", flush=True)


def build_run_plan(work: Path) -> None:
    """Write a folder with a tiny model, data and a recipe."""
    made = HERE.parent / "runs" / "diagnosis"
    if not made.exists():
        sys.path.insert(0, str(HERE.parent / "tests"))
        from conftest import make_tiny_model

        made.mkdir(parents=True)
        make_tiny_model(made / "model")
        rows = [{"prompt": f"item {n}", "completion": "ab"[n % 2]} for n in range(400)]
        for name in ("train", "general"):
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (made / f"{name}.jsonl").write_text(lines)
        (made / "recipe.yaml").write_text(
            "model: ./model\ntask: {train: train.jsonl}\ngeneral: general.jsonl\n"
            'anchor: {prompt: "Name it."}\nmixture: {leverage_ratio: 1, passes: 40}\n'
        )
    shutil.copytree(made, work)


def judge(*, apart: bool) -> dict[str, object]:
    """Compare the diagnoses of logs with the injected faults."""
    from telltune.research.diagnosis.diagnose import diagnose
    from telltune.research.diagnosis.rules import load_rules

    sides = {rule.cause: rule.side for rule in load_rules()}
    rows, named, wrong_side = [], 0, 0
    for path in sorted((LOGS / ("apart" if apart else "seen")).glob("*.log")):
        cause, name, _ = path.name.split(".")
        found = diagnose(path.read_text().splitlines())
        named += found.cause == cause
        wrong_side += sides.get(cause) == "user" and found.side == "infrastructure"
        rows.append({"log": name, "cause": cause, "named": found.cause, "side": found.side})
    counted = Counter((row["cause"], row["named"]) for row in rows)
    return {
        "logs": len(rows),
        "named": named,
        "share": round(named / max(len(rows), 1), 3),
        "infrastructure_for_a_mistake": wrong_side,
        "table": [{"cause": c, "named": n, "logs": k} for (c, n), k in sorted(counted.items())],
        "confusion": rows,
    }


if __name__ == "__main__":
    main()
