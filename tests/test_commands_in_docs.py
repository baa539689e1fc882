"""Code blocks in the docs fit the code, and ```bash blocks also run."""

from __future__ import annotations

import ast
import itertools
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from telltune.cli import app
from telltune.evaluation.metrics import get_metric
from telltune.methods.registry import get_method
from telltune.recipe import DataSpec, columns_from_text, load_recipe, recipe_from_dict
from telltune.research.continual.spec import ContinualSpec
from telltune.study.spec import load_study
from telltune.valuation.embeddings import is_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
RULES = ROOT / "src" / "telltune" / "research" / "diagnosis" / "rules.yaml"
SHELL = ("bash", "sh", "console")
LANGUAGES = (*SHELL, "python", "yaml", "toml", "csv", "text")

TELL: Any = typer.main.get_command(app)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    """Path of the page in the repository."""
    line: int
    """Number of the first line of its text."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a shell block, or of inline code."""

    place: str
    """Page and line."""
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {' '.join(self.words)}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)```(.*)\n((?s:.*?))^\1```$", text, re.MULTILINE):
        line = text.count("\n", 0, found.start(3)) + 1
        yield Block(str(page.relative_to(ROOT)), line, found[2], found[3])


def words_of(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a line, without comments and redirections."""
    words = shlex.shlex(re.sub(r"(?<!\S)#.*", "", line), posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    for separates, command in itertools.groupby(words, lambda word: set(word) <= set(";&|")):
        if not separates:
            yield tuple(itertools.takewhile(lambda word: not set(word) <= set("<>"), command))


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of a shell block: its lines, or those behind `$ ` in ```console."""
    prompt = r"\$ " if block.language == "console" else ""
    for found in re.finditer(rf"^{prompt}((?:.*\\\n)*.*)$", block.text, re.MULTILINE):
        place = f"{block.page}:{block.line + block.text.count(chr(10), 0, found.start())}"
        for words in words_of(found[1].replace("\\\n", " ")):
            yield Command(place, words)


def inline_of(page: Path) -> Iterator[Command]:
    """Yield the commands in inline code, which may leave out arguments and values."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"(?<!`)`((?:tell [a-z]|make )[^`]*)`", text):
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}"
        for words in words_of(found[1].replace("\n", " ")):
            yield Command(place, words)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [one for block in BLOCKS if block.language in SHELL for one in commands_of(block)]
INLINE = [one for page in PAGES for one in inline_of(page)]


def in_language(language: str) -> Callable[[Any], Any]:
    chosen = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", chosen, ids=str)


def test_blocks_name_their_language_and_only_shell_blocks_hold_commands() -> None:
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == []
    command = re.compile(r"^(\$ |(tell|make|pip|python|torchrun|ray) )", re.MULTILINE)
    others = [block for block in BLOCKS if block.language not in SHELL]
    assert [str(block) for block in others if command.search(block.text)] == []


def arguments(words: Sequence[str]) -> tuple[str, ...] | None:
    """Return the arguments for `tell`, also behind a launcher, or None for other programs."""
    if words[0] == "tell":
        return tuple(words[1:])
    pairs = list(itertools.pairwise(words))
    module = ("-m", "telltune")
    return tuple(words[pairs.index(module) + 2 :]) if module in pairs else None


def check(words: Sequence[str]) -> None:
    """Parse the arguments of `tell` without running it, and look up the names in them.

    Raises:
        Exception: From Typer or telltune, for a mistake.
    """
    context = typer.Context(TELL, info_name="tell")
    given, rest, _ = TELL.make_parser(context).parse_args(list(words))
    name, verb, rest = TELL.resolve_command(context, rest)
    values = verb.make_context(name, rest, parent=context).params
    if overrides := values.get("overrides"):
        file = ROOT / str(values.get("recipe"))
        some = {"task": {"train": "train.jsonl"}}
        recipe = (
            load_recipe(file, overrides)
            if file.is_file()
            else recipe_from_dict(some, overrides=overrides)
        )
        get_method(recipe.method)
    if method := values.get("method"):
        for each in method.split(","):
            get_method(each)
    if values.get("columns"):
        columns_from_text(values["columns"], completion="completion")
    if not given.get("plugin"):
        for each in values.get("metric") or ():
            get_metric(each)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_commands_are_accepted(command: Command) -> None:
    if (given := arguments(command.words)) is not None:
        check(given)
    elif command.words[0] == "make":
        check_target(command.words)


def test_verbs_and_options_in_inline_code_exist() -> None:
    options = {
        name: {option for parameter in verb.params for option in parameter.opts}
        for name, verb in TELL.commands.items()
    }
    unknown = []
    for command in INLINE:
        program, name, *words = command.words
        given = {word for word in words if word.startswith("--")}
        if program == "make":
            check_target(command.words)
        elif name not in options or not given <= options[name]:
            unknown.append(str(command))
    assert unknown == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tell train recipe.yaml", "No such command 'train'"),
        ("tell plan recipe.yaml --fast", "No such option: --fast"),
        ("tell fit recipe.yaml", "Missing parameter: out"),
        ("tell show recipe.yaml -n many", "should be a valid integer"),
        ("tell plan recipe.yaml --set mixture.passs=5", "mixture.passs"),
        ("tell plan recipes/demo.yaml --set method=tel", "no method `tel`"),
        ("tell compare recipe.yaml --out out --method sft,tel", "no method `tel`"),
        ("tell evaluate adapter --metric accurate", "accurate"),
        ("tell check rows.csv --columns question=text", "question"),
        ("torchrun -m telltune fit recipe.yaml --out a b", "unexpected extra argument"),
    ],
)
def test_mistakes_in_commands_are_found(line: str, message: str) -> None:
    [words] = words_of(line)
    given = arguments(words)
    assert given is not None
    with pytest.raises(Exception, match=message):
        check(given)


def check_target(words: Sequence[str]) -> None:
    """Ask make what it would do, without doing it.

    Raises:
        subprocess.CalledProcessError: The Makefile has no such target.
    """
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)


@in_language("yaml")
def test_yaml_is_a_recipe_or_a_part_of_one(block: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(block.text)
    if "methods" in values:
        shutil.copy(ROOT / "recipes" / "demo.yaml", tmp_path)
        (tmp_path / "study.yaml").write_text(block.text)
        load_study(tmp_path / "study.yaml")
    elif "trace" in values:
        ContinualSpec.model_validate(values)
    elif "abilities" in values:
        ContinualSpec.model_validate(
            {"recipe": {}, "tasks": ["equation", "open_question"]} | values
        )
    elif "path" in values:
        DataSpec.model_validate(values)
    else:
        values.pop("levers", None)  # sections of plugins
        recipe_from_dict({"task": {"train": "train.jsonl"}} | values)


@in_language("python")
def test_python_compiles_and_uses_what_telltune_has(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("telltune"):
            for name in node.names:
                pkgutil.resolve_name(f"{node.module}:{name.name}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "telltune":
            pkgutil.resolve_name(f"telltune:{node.attr}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_telltune_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"^::: (telltune[.\w]+)$|`(telltune\.[.\w]+)[`(]", text, re.MULTILINE):
        pkgutil.resolve_name("".join(name))


def test_versions_that_pip_is_told_are_those_of_the_constraints() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = {
        f"{page.name}: {version}"
        for page in PAGES
        for version in re.findall(r"[\w-]+==[\w.]*\w", page.read_text(encoding="utf-8"))
    }
    assert named
    assert {each for each in named if each.partition(": ")[2] not in pinned} == set()


@pytest.fixture
def working_directory(
    tiny_model: Path, toy_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter a folder with the files that the docs name, with the tiny model and small data."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes" / "tickets", "recipes/tickets")
    general = [{"prompt": f"Count {n}. " * 40, "completion": f"{n}"} for n in range(200)]
    Path("recipes/general.jsonl").write_text("\n".join(map(json.dumps, general)))
    small = {"model": str(tiny_model), "general": "general.jsonl"}
    tickets = yaml.safe_load((ROOT / "recipes" / "tickets.yaml").read_text()) | small
    Path("recipes/tickets.yaml").write_text(yaml.safe_dump(tickets))
    Path("recipes/demo.yaml").write_text(yaml.safe_dump(toy_recipe))
    shutil.copy(ROOT / "recipes" / "study.yaml", "recipes")
    Path("recipe.yaml").write_text(yaml.safe_dump(toy_recipe))
    train, test = (Path("recipes/tickets", name) for name in ("train.csv", "test.csv"))
    shutil.copy(train, "train.csv")
    shutil.copy(train, "tickets.csv")
    shutil.copy(test, "labeled.csv")
    Path("inputs.csv").write_text(train.read_text() + test.read_text().partition("\n")[2])
    Path("train.log").write_text("OSError: [Errno 28] No space left on device\n")
    Path("good.log").write_text("step 1, loss 0.5\n")
    shutil.copy(RULES, "site.yaml")


@in_language("bash")
@pytest.mark.usefixtures("working_directory")
def test_bash_blocks_run(block: Block, tiny_model: Path) -> None:
    for command in commands_of(block):
        program, verb, *words = command.words
        assert program == "tell", f"{command}: use ```sh for what is not run"
        if verb == "pick" and not is_installed():
            pytest.skip("the embedded sentence encoder is not installed")
        if verb in ("check", "init") and not words[0].endswith(".yaml"):
            words += ["--model", str(tiny_model)]  # converting the embedded one takes 20 seconds
        ran = CliRunner().invoke(app, [verb, *words])
        assert ran.exit_code == 0, f"{command}: {ran.output}{ran.exception}"
