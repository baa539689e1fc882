"""Every public name is listed, and every public function has an example that runs."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import telltune
from telltune import TellClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
LONG = ("recommend", "run_study", "report", "score_examples", "write_synthetic", "pick")
"""Functions whose examples are only compiled."""

FUNCTIONS = {
    name: getattr(telltune, name)
    for name in telltune.__all__
    if inspect.isfunction(getattr(telltune, name))
} | {
    f"TellClassifier.{name}": method
    for name, method in inspect.getmembers(TellClassifier, callable)
    if name in ("fit", "predict", "predict_proba", "save", "load")
}


def example_of(name: str) -> doctest.DocTest:
    text = inspect.cleandoc(FUNCTIONS[name].__doc__ or "")
    assert "\nExamples:\n" in text, f"{name} has no example"
    return doctest.DocTestParser().get_doctest(text, {"telltune": telltune}, name, None, None)


def test_every_public_name_is_listed_and_found() -> None:
    assert set(telltune.__all__) <= set(dir(telltune))
    assert all(getattr(telltune, name) is not None for name in telltune.__all__)
    assert {"fit", "evaluate", "predict", "check", "TellClassifier"} <= set(dir(telltune))
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        telltune.train  # noqa: B018
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith(":::")}
    assert set(telltune.__all__) <= documented


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_compile(name: str) -> None:
    examples = example_of(name).examples
    assert examples
    for example in examples:
        compile(example.source, name, "single")


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fitted") / "adapter"


@pytest.fixture
def working_directory(
    fitted_once: Path,
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], None]:
    """Enter a folder with the files that the examples name, and the tiny model for `embedded`."""
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    toy_recipe["mixture"]["passes"] = 1
    Path("recipes/demo.yaml").write_text(yaml.safe_dump(toy_recipe))
    shutil.copy(ROOT / "recipes" / "study.yaml", "recipes")
    monkeypatch.setattr(TellClassifier.__init__, "__defaults__", (str(tiny_model), "tell"))
    named = {"columns": None, "model": str(tiny_model)}
    monkeypatch.setattr(telltune.write_recipe, "__kwdefaults__", named)

    def needs(text: str) -> None:
        if '"runs/mine"' in text:
            baseline = toy_recipe | {"method": "tfidf_linear"}
            telltune.fit(baseline, "runs/mine", progress=False)
        if '"runs/adapter"' in text:
            if not fitted_once.exists():
                telltune.fit(toy_recipe | {"method": "sft"}, fitted_once, progress=False)
            shutil.copytree(fitted_once, "runs/adapter")

    return needs


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in LONG])
def test_examples_run(name: str, working_directory: Callable[[str], None]) -> None:
    example = example_of(name)
    if name != "fit":
        working_directory(example.docstring or "")
    said: list[str] = []
    failed, tried = doctest.DocTestRunner().run(example, out=said.append)
    assert tried
    assert failed == 0, "".join(said)
