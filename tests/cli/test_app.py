"""Help by group, completion, and the options that every verb has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from forked import Forked
from telltune.cli import app
from telltune.cli.app import GROUPS
from telltune.outputs import set_verbosity, verbosity
from test_commands_in_docs import TELL, arguments, check, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERBS = tuple(TELL.commands)


@pytest.fixture(autouse=True)
def quiet_ends() -> Iterator[None]:
    yield
    set_verbosity(0)


def said(*words: str, **more: Any) -> str:
    ran = CliRunner().invoke(app, list(words), **more)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_every_verb_is_in_one_group_of_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(VERBS) <= set(grouped)
    lines = said("--help", env={"COLUMNS": "80"}).splitlines()
    places = [lines.index(f"{group}:") for group in GROUPS]
    assert places == sorted(places)
    assert "Other:" not in lines
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines[places[0] :] if line[:2] == "  " and line[2] != " "]
    assert [name for name in listed if name in VERBS] == [n for n in grouped if n in VERBS]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_in_the_help_of_a_verb_parse(verb: str) -> None:
    epilog = TELL.commands[verb].epilog
    assert epilog is not None
    assert epilog.startswith("Example: ")
    commands = [
        words for words in words_of(epilog.replace(" < inputs.jsonl", "")) if "tell" in words
    ]
    assert commands
    for words in commands:
        given = arguments(words[words.index("tell") :])
        assert given is not None
        assert given[0] == verb or commands[0] != words
        check([word.rstrip(".,") for word in given])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_can_be_quiet_or_verbose(verb: str) -> None:
    options = {option for parameter in TELL.commands[verb].params for option in parameter.opts}
    assert {"-q", "--quiet", "-v", "--verbose"} <= options
    assert ("--json" in options) is (verb not in ("chat", "ui"))  # they have no result


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_names_no_python_type(verb: str) -> None:
    described = said(verb, "--help", env={"COLUMNS": "200"}).partition("Example:")[0]
    assert not re.search(r"<\w|list\[", described)


def test_the_help_names_types_as_click_does() -> None:
    told = said("score", "--help", env={"COLUMNS": "200"}) + said("check", "--help")
    for option in ("--out PATH", "--by [pvi|memory]", "--folds INTEGER", "--model TEXT"):
        assert f"  {option} " in told
    assert "  --minutes FLOAT " in said("recommend", "--help")


def test_quiet_leaves_results_and_errors(toy_recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    toy_recipe["task"]["train"] = [toy_recipe["task"]["train"]] * 2  # warns of duplicates
    path.write_text(yaml.safe_dump(toy_recipe | {"method": "tfidf_linear"}))
    loud = CliRunner().invoke(app, ["plan", str(path)])
    quiet = CliRunner().invoke(app, ["plan", str(path), "-q"])
    assert loud.exit_code == quiet.exit_code == 0
    assert loud.stdout == quiet.stdout
    assert quiet.stderr == ""
    assert verbosity() == -1
    CliRunner().invoke(app, ["plan", str(path)])
    assert verbosity() == 0


def test_verbose_says_where_an_error_was_raised(tmp_path: Path) -> None:
    plain, told = tmp_path / "plain", tmp_path / "told"
    command = ("plan", tmp_path / "recipe.yaml")
    assert Forked(*command, said=plain).wait() == Forked(*command, "-v", said=told).wait() == 2
    assert plain.read_text().startswith("error: ")
    assert "Traceback" in told.read_text()
    assert told.read_text().endswith(plain.read_text())


def test_training_is_imported_without_bitsandbytes(tmp_path: Path) -> None:
    # That import takes seconds, and only quantized models need it.
    look = partial(exec, "import sys; assert 'bitsandbytes' not in sys.modules")
    assert Forked("--help", said=tmp_path / "said", first=look).wait() == 0


@pytest.mark.parametrize(
    ("shell", "text", "expected"),
    [
        ("bash", "tell conf", "config-schema"),
        ("zsh", "tell fit --over", "--overwrite"),
        ("fish", "tell evalu", "evaluate"),
    ],
)
def test_shells_complete_verbs_and_options(shell: str, text: str, expected: str) -> None:
    words = {"COMP_WORDS": text, "COMP_CWORD": str(len(text.split()) - 1)}
    words |= {"_TYPER_COMPLETE_ARGS": text, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "from telltune.cli import app; app(args=[], prog_name='tell')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | words | {"_TELL_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert expected in done.stdout
