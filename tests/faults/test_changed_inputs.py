"""A run is resumed only with the inputs that it started with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from victim import Left, cut_at

import telltune
from telltune.errors import StorageError
from telltune.models import load_base
from telltune.recipe import ModelSpec
from telltune.storage import checksum
from telltune.verification import verify


def other_task(short: dict[str, Any]) -> None:
    path = Path(short["task"]["train"])
    # The same number of tokens as before, so that only their hash differs.
    path.write_text(path.read_text().replace('"ball"', '"bxll"'))


def other_general(short: dict[str, Any]) -> None:
    path = Path(short["general"])
    path.write_text(path.read_text().replace("twice", "thrice"))


def other_model(short: dict[str, Any]) -> None:
    base = load_base(ModelSpec(name=short["model"]), "fp32").model
    with torch.no_grad():
        next(base.parameters())[0, 0] += 1
    base.save_pretrained(short["model"])


def other_template(short: dict[str, Any]) -> None:
    path = Path(short["model"]) / "chat_template.jinja"
    path.write_text(path.read_text().replace("named SmolLM", "called SmolLM"))


def test_what_changed_since_the_run_was_cut_short_is_named(
    short: dict[str, Any], undisturbed: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short["model"] = shutil.copytree(short["model"], tmp_path / "model").as_posix()
    out = tmp_path / "out"

    def run() -> object:
        return telltune.fit(short, out, progress=False)

    cut_at(5, monkeypatch, run)
    model = Path(short["model"])
    files = (
        *tmp_path.glob("*.jsonl"),
        model / "model.safetensors",
        model / "chat_template.jinja",
    )
    kept = {path: path.read_bytes() for path in files}
    for change, named in (
        (other_task, "task data"),
        (other_general, "general data"),
        (other_model, "model"),
        (other_template, "what the chat template writes, task data"),
    ):
        change(short)
        with pytest.raises(StorageError, match=f"interrupted .* changed since: {named}. Restore"):
            run()
        for path, content in kept.items():
            path.write_bytes(content)
    # After everything is restored, the run continues.
    run()
    assert Left.of(out) == undisturbed


def test_a_changed_confidence_or_dev_example_is_named(
    short: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {Path(short["task"][split]): split for split in ("train", "dev")}
    for path, split in files.items():
        mark = ', "sure": 1.0}' if split == "train" else "}"
        path.write_text(path.read_text().replace("}", mark))
    columns = {"prompt": "prompt", "completion": "completion", "confidence": "sure"}
    short["task"]["train"] = [{"path": short["task"]["train"], "columns": columns}]
    short["confidence"] = {"by": "column"}
    short["training"]["early_stopping"] = True
    out = tmp_path / "out"

    def run() -> object:
        return telltune.fit(short, out, progress=False)

    cut_at(5, monkeypatch, run)
    named = {"train": "confidence", "dev": "dev data"}
    other = {"train": ("1.0", "0.5"), "dev": ("ball", "box")}
    for path, split in files.items():
        kept = path.read_text()
        path.write_text(kept.replace(*other[split]))
        with pytest.raises(StorageError, match=f"changed since: {named[split]}. Restore"):
            run()
        path.write_text(kept)
    # Checkpoints of earlier versions do not have these two hashes.
    for path in out.glob("checkpoints/*/inputs.json"):
        known = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in known.items() if k not in named.values()}))
        manifest = path.with_name("manifest.json")
        sums = json.loads(manifest.read_text()) | {path.name: checksum(path)}
        manifest.write_text(json.dumps(sums))
    run()
    assert verify(out).held is True
    dev = Path(short["task"]["dev"])
    dev.write_text(dev.read_text().replace("ball", "box"))
    assert [check.what for check in verify(out).checks if not check.held] == ["dev data"]
