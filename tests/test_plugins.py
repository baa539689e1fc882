"""Plugins add methods, levers, metrics and formats, as in docs/guides/plugins.md."""

from __future__ import annotations

import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from forked import Forked
from telltune.answering import predict
from telltune.cli import app
from telltune.data.formats import read_rows, register_format
from telltune.errors import RecipeError
from telltune.methods.registry import get_method, register_method
from telltune.plugins import add_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "plugins.md"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder of packages that contains the guide's plugin, as pip installs it."""
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    [points] = re.findall(r"```toml\n\[project.entry-points.(.*?)```", GUIDE.read_text(), re.DOTALL)
    site = tmp_path / "site"
    info = site / "my_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "my_plugin.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    group, _, names = points.partition("]\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{names}".replace('"', ""))
    return site


def install(site: str) -> None:
    sys.path.insert(0, site)


def test_an_installed_plugin_adds_a_method_a_lever_a_metric_and_a_format(
    site: Path, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    pairs = [line for item in range(12) for line in (f"What is item {item}?", "ball")]
    (tmp_path / "mine.pairs").write_text("\n".join(pairs))
    toy_recipe |= {"method": "tell_one_pass", "levers": {"lower_case": {"confidence": 0.3}}}
    toy_recipe["task"] = {"train": "mine.pairs", "test": "mine.pairs"}
    toy_recipe["evaluation"] = {"metrics": ["same_length"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(toy_recipe))
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    process = Forked(
        *("fit", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "--json"),
        said=out,
        complaints=err,
        first=partial(install, str(site)),
    )
    assert process.wait() == 0, err.read_text()
    done = json.loads(out.read_text())
    assert done["method"] == "tell_one_pass"
    # Twelve examples in one pass, and each again in lower case.
    assert (done["counts"]["passes"], done["counts"]["task_examples"]) == (1, 24)
    assert done["recipe"]["levers"] == {"lower_case": {"confidence": 0.3}}
    assert (done["levers"][0]["lever"], done["levers"][0]["made"]) == ("lower_case", 12)
    rows = map(json.loads, (tmp_path / "run" / "made.jsonl").read_text().splitlines())
    assert {(row["lever"], row["prompt"], row["confidence"]) for row in rows} == {
        ("lower_case", f"what is item {item}?", 0.3) for item in range(12)
    }
    # The folder answers without the plugin.
    assert len(predict(tmp_path / "run", ["What is item 3?"])) == 1
    assert len(predict(tmp_path / "run", [{"prompt": "What is item 3?"}])) == 1


def test_a_module_named_on_the_command_line_is_loaded(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "only_named.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("TELLTUNE_PLUGINS", "json")
    add_plugin("only_named")
    assert "only_named" in sys.modules
    # Processes that are started from here load it too.
    assert os.environ["TELLTUNE_PLUGINS"] == "json,only_named"


def test_a_module_in_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The path of the installed command, which has only its own folder and installed packages.
    monkeypatch.setattr(
        sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))]
    )
    monkeypatch.setenv("TELLTUNE_PLUGINS", "")
    monkeypatch.chdir(tmp_path)
    Path("only_here.py").write_text("")
    add_plugin("only_here")
    assert Path(sys.modules["only_here"].__file__ or "").resolve() == tmp_path / "only_here.py"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named(
    code: str, reason: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(site)
    message = rf"the plugin `broken` cannot be loaded \({reason}: "
    with pytest.raises(RecipeError, match=message):
        add_plugin("broken")
    ran = CliRunner().invoke(app, ["--plugin", "broken", "report", str(site)])
    assert isinstance(ran.exception, RecipeError)
    assert re.match(message, str(ran.exception))


def test_names_that_exist_are_refused() -> None:
    from dataclasses import replace

    with pytest.raises(RecipeError, match="method `sft` is already registered"):
        register_method(replace(get_method("sft"), label="mine"))  # type: ignore[type-var]
    with pytest.raises(RecipeError, match=r"files that end in `\.csv` have a format already"):
        register_format(".csv", lambda _: [])
    with pytest.raises(RecipeError, match="`csv` is not a suffix"):
        register_format("csv", lambda _: [])


def test_an_error_in_a_reader_is_a_problem_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from telltune.data import formats

    def rows(path: Path) -> Iterator[dict[str, Any]]:
        yield {"prompt": "a", "completion": path.name}
        raise ValueError("odd cell")

    monkeypatch.setattr(formats, "_BY_PATH", dict(formats._BY_PATH))
    register_format(".odd", rows)
    (tmp_path / "a.odd").touch()
    first, second = read_rows(tmp_path / "a.odd")
    assert first.values == {"prompt": "a", "completion": "a.odd"}  # type: ignore[union-attr]
    assert (second.line, second.reason) == (2, "cannot be read (ValueError: odd cell)")
