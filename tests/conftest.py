"""Fixtures for all tests: a tiny random model, toy data and a temporary cache."""

from __future__ import annotations

import copy
import functools
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chat_server import ChatServer
    from forked import PlainPython

# Tests must not need the network; huggingface_hub reads this when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # One core for each worker and for the commands that it starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Some tests import PEFT themselves, which would import bitsandbytes for seconds.
    import telltune.training.hf_trainer  # noqa: F401

# Files of tests need not survive a loss of power; each fit waited for the disk dozens of times.
os.fsync = lambda descriptor: None

# With Python's own thresholds, looking for garbage takes a tenth of the time.
gc.set_threshold(50_000, 20, 50)


def collect(generation: int = 2, _collect: Callable[[int], int] = gc.collect) -> int:
    """Collect garbage, but not among what was imported since the last time.

    Training ends with a full collection, which took longer than training the tiny model.
    """
    global _imported
    if len(sys.modules) > _imported:
        _imported = len(sys.modules)
        gc.freeze()
    return _collect(generation)


_imported = 0
gc.collect = collect

# The same inputs in each run, and no deadlines, which a busy machine would miss.
# `pytest --hypothesis-profile=search` looks for new inputs, and for more of them.
settings.register_profile("search", deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile(
    "fixed", settings.get_profile("search"), derandomize=True, database=None, max_examples=40
)
settings.load_profile("fixed")

END_TO_END = Path(__file__).parent / "e2e"

LONGEST = ("test_held_out.py", "test_cluster.py", "test_course.py", "test_cli.py")
"""The files that take longest, of those that one of several workers gets."""


@functools.cache
def needs_forks(path: Path) -> bool:
    """Return whether tests of a file run processes of `forked`, which first import everything."""
    text = path.read_text(encoding="utf-8")
    return "from forked import" in text or "plain_python" in text


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: (not needs_forks(item.path), item.path.name not in LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each worker one file after another; all that need forks are one worker's."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "forks" if needs_forks(config.rootpath / file) else file

    return Scheduling(config, log)


CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's chat template."""

SENTENCES = [
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "item 7 is round, item 8 is square, item 9 is flat",
    "system user assistant",
    "Answer the question in one sentence. Name the shape, nothing else.",
    "What is the capital of Iceland? The capital of Iceland is Reykjavík.",
    "Write a short note about the weather; it rains, and the wind is cold.",
    "ball box sheet",
]

SHAPES = {"round": "ball", "square": "box", "flat": "sheet"}


@pytest.fixture(autouse=True)
def cache(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path | None:
    """Return a cache folder that lasts for the session, or None for tests/e2e.

    Converting the embedded model takes seconds, so tests/e2e use the user's own cache.
    """
    if END_TO_END in request.node.path.parents:
        return None
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("TELLTUNE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute with one thread: the tiny model has no work for several.

    On a busy machine, threads that wait for one another made tests of seconds take minutes.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(threads if END_TO_END in request.node.path.parents else 1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random two-layer Llama and a tokenizer with SmolLM2's template."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


def make_tiny_model(folder: Path) -> Path:
    """Write the model and the tokenizer of `tiny_model` to a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        # Large enough that answers depend on the prompt and that something can be learned.
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainPython]:
    """Python with transformers and PEFT, but without telltune."""
    from forked import PlainPython

    python = PlainPython(tmp_path_factory.mktemp("plain-python"))
    yield python
    python.close()


@pytest.fixture(scope="session")
def untrained() -> list[str]:
    """Return the methods that train nothing. tests/study/test_held_out.py runs all others."""
    from telltune.methods.registry import get_method, method_names

    return [name for name in method_names() if not get_method(name).trains]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random one-layer sentence encoder and the tiny model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def short_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the explanations of labels: those of the tiny model mean nothing and never end."""
    monkeypatch.setattr("telltune.levers.auxiliary._LONGEST", 8)
    monkeypatch.setattr("telltune.levers.auxiliary._ATTEMPTS", 3)


@pytest.fixture(scope="session")
def loaded_once(tiny_model: Path) -> Any:
    """Return the tiny model in fp32, of which tests get copies."""
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    return load_base(ModelSpec(name=str(tiny_model)), "fp32")


@pytest.fixture
def tiny_tokenizer(loaded_once: Any) -> Any:
    """Return a new copy of the tiny model's tokenizer, which the test may change."""
    return copy.deepcopy(loaded_once.tokenizer)


@pytest.fixture
def tiny_base(loaded_once: Any) -> Any:
    """Return a new copy of the tiny model in fp32, which the test may change."""
    return copy.deepcopy(loaded_once)


def byte_level_tokenizer() -> Any:
    """Return a byte-level BPE of some 400 tokens with SmolLM2's control tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, list[dict[str, Any]]], Path]:
    """Return a function that writes rows to a JSONL file and returns its path."""

    def write(path: Path, rows: list[dict[str, Any]]) -> Path:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def toy_rows() -> Callable[[range], list[dict[str, str]]]:
    """Return a function that makes task rows: "item 7 is round" is a ball."""
    kinds = list(SHAPES)

    def rows(numbers: range) -> list[dict[str, str]]:
        return [
            {"prompt": f"item {n} is {kinds[n % 3]}", "completion": SHAPES[kinds[n % 3]]}
            for n in numbers
        ]

    return rows


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """Yield a server with scripted replies; its answers are cached for one test only."""
    import openai._base_client

    from chat_server import ChatServer
    from telltune.inference.api_client import api_client

    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.02)
    api_client.cache_clear()
    made = ChatServer()
    yield made
    made.close()


@pytest.fixture
def toy_task(
    tmp_path: Path, write_jsonl: Callable[..., Path], toy_rows: Callable[..., Any]
) -> dict[str, Path]:
    """Return files: train (24 examples, 3 labels), dev and test (12 each), general (200)."""
    general = [
        {"prompt": f"Write the number {n} twice.", "completion": f"{n} and {n}"} for n in range(200)
    ]
    return {
        "train": write_jsonl(tmp_path / "train.jsonl", toy_rows(range(24))),
        "dev": write_jsonl(tmp_path / "dev.jsonl", toy_rows(range(24, 36))),
        "test": write_jsonl(tmp_path / "test.jsonl", toy_rows(range(36, 48))),
        "general": write_jsonl(tmp_path / "general.jsonl", general),
    }


@pytest.fixture
def toy_recipe(tiny_model: Path, toy_task: dict[str, Path]) -> dict[str, Any]:
    """Return a recipe for the tiny model and toy files, as read from YAML; tests may change it."""
    return {
        "model": str(tiny_model),
        "task": {
            "train": str(toy_task["train"]),
            "dev": str(toy_task["dev"]),
            "test": str(toy_task["test"]),
        },
        "general": str(toy_task["general"]),
        "anchor": {"prompt": "Name the shape, nothing else."},
        "mixture": {"leverage_ratio": 1.0, "passes": 2},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "training": {
            "learning_rate": 1e-2,
            "batch_size": 8,
            "micro_batch_tokens": 512,
            "loss_average": "token",
            "max_length": 256,
            "precision": "fp32",
            # The toy task has dev data, but few tests need early stopping.
            "early_stopping": False,
        },
    }


@pytest.fixture
def small_batches(toy_recipe: dict[str, Any]) -> None:
    """Let the toy recipe take twice as many steps, for tests that count or need them."""
    toy_recipe["training"]["batch_size"] = 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a separate file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mount -t tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Yield Debian's Chromium, started by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def open_page(browser: Any) -> Callable[[Path], Any]:
    """Return a function that opens a report and waits for its charts; `said` has its errors."""
    drawn = (
        "document.querySelectorAll('.chart svg').length "
        "=== document.querySelectorAll('figure').length"
    )

    def opened(path: Path) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.said.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function(drawn)
        assert page.said.pop(0) == path.as_uri()
        return page

    return opened
