"""General responses are sampled from the model, once, and do not depend on later steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.task import load_general, load_task
from telltune.fitting.protocol import Settings
from telltune.inference import writer
from telltune.inference.api_client import ApiClient
from telltune.inference.writer import Writer
from telltune.methods import self_sampled
from telltune.methods.registry import get_method
from telltune.methods.self_sampled import sample_responses
from telltune.recipe import ApiSpec, recipe_from_dict
from telltune.training import run as training_run
from telltune.training.run import train

if TYPE_CHECKING:
    from pathlib import Path

    from chat_server import ChatServer
    from telltune.data.general import GeneralData
    from telltune.models import LoadedModel


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(self_sampled, "_LONGEST", 8)
    monkeypatch.setattr(self_sampled, "_CHUNK", 4)


@pytest.fixture
def general(toy_recipe: dict[str, Any]) -> GeneralData:
    found = load_general(recipe_from_dict(toy_recipe))
    assert found is not None
    return found


def test_prompts_stay_and_responses_are_the_models(
    tiny_base: LoadedModel, general: GeneralData
) -> None:
    sampled = list(sample_responses(Writer(tiny_base), general, 10, seed=0, max_length=256))
    by_prompt = {example.prompt: example for example in general}
    assert len({example.prompt for example in sampled}) == 10
    assert {example.prompt for example in sampled} < set(by_prompt)
    assert all(example.completion for example in sampled)
    assert sum(by_prompt[e.prompt].completion != e.completion for e in sampled) > 5


def test_a_larger_draw_holds_the_smaller_and_seeds_differ(
    tiny_base: LoadedModel, general: GeneralData
) -> None:
    small = list(sample_responses(Writer(tiny_base), general, 5, seed=0, max_length=256))
    large = list(sample_responses(Writer(tiny_base), general, 10, seed=0, max_length=256))
    assert large[:5] == small
    assert list(sample_responses(Writer(tiny_base), general, 5, seed=1, max_length=256)) != small


def test_an_answer_that_has_more_tokens_as_a_text_does_not_make_an_example_too_long(
    tiny_base: LoadedModel, general: GeneralData, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = ["one\u2028line", "ü" * 300]

    def drawn(_: Any, prompts: list[Any], **__: Any) -> list[str]:
        return [says[i % 2] for i in range(len(prompts))]

    monkeypatch.setattr(writer, "sample_texts", drawn)
    sampled = list(sample_responses(Writer(tiny_base), general, 8, seed=0, max_length=256))
    by_prompt = {example.prompt: example.completion for example in general}
    assert [e.completion for e in sampled[::2]] == says[:1] * 4
    assert all(e.completion == by_prompt[e.prompt] for e in sampled[1::2])


def test_what_is_on_disk_is_not_sampled_again_and_a_part_is_completed(
    tiny_base: LoadedModel, general: GeneralData, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[int] = []
    write = self_sampled._write

    def counted(*given: Any, seed: int) -> None:
        chunks.append(seed)
        write(*given, seed=seed)

    monkeypatch.setattr(self_sampled, "_write", counted)
    first = sample_responses(Writer(tiny_base), general, 10, seed=3, max_length=256)
    whole = list(first)
    assert chunks == [3, 7, 11]
    first.files[1].unlink()
    assert list(sample_responses(Writer(tiny_base), general, 10, seed=3, max_length=256)) == whole
    assert chunks == [3, 7, 11, 7]


def test_training_sees_the_sampled_responses(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_from_dict(toy_recipe)
    method = get_method("tell_self_sampled")
    general = load_general(recipe)
    out = tmp_path / "out"
    predictor = method.run(load_task(recipe), general, tiny_base, Settings(recipe, out, False))
    predictor.release()
    plain = get_method("tell").run(load_task(recipe), general, tiny_base, Settings(recipe))
    assert predictor.cost.general_examples == plain.cost.general_examples > 0
    # Other responses have other lengths.
    assert predictor.cost.general_tokens != plain.cost.general_tokens
    from telltune.fitting.adapter_folder import read_tell

    assert "self-sampled" in read_tell(out)["data"]["general"]["name"]


def test_sampling_is_a_part_of_what_the_method_cost(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[float] = []

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return sample_responses(*arguments)

    def watched(*arguments: Any, **named: Any) -> Any:
        found = train(*arguments, **named)
        trained.append(found.seconds)
        return found

    monkeypatch.setattr(self_sampled, "sample_responses", slow)
    monkeypatch.setattr(training_run, "train", watched)
    recipe = recipe_from_dict(toy_recipe)
    method = get_method("tell_self_sampled")
    predictor = method.run(load_task(recipe), load_general(recipe), tiny_base, Settings(recipe))
    assert predictor.cost.seconds >= trained[0] + 0.5


def test_without_general_data_it_is_refused(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    from telltune.errors import RecipeError

    recipe = recipe_from_dict(toy_recipe | {"general": None})
    with pytest.raises(RecipeError, match="needs general data"):
        get_method("tell_self_sampled").run(load_task(recipe), None, tiny_base, Settings(recipe))


def test_a_teacher_answers_the_general_prompts(
    server: ChatServer, tiny_base: LoadedModel, general: GeneralData
) -> None:
    server.rule = lambda text: f"So {text.split()[0]}"
    client = ApiClient(ApiSpec(url=server.url, model="large"))
    sampled = sample_responses(Writer(tiny_base, client), general, 6, seed=0, max_length=256)
    assert [e.completion for e in sampled] == [f"So {e.prompt.split()[0]}" for e in sampled]
    assert sampled.name.endswith("(answered by large)")
    assert len(server.seen) == 8  # whole chunks
    assert {(seen["temperature"], seen["top_p"]) for seen in server.seen} == {(0.7, 0.95)}
    own = sample_responses(Writer(tiny_base), general, 6, seed=0, max_length=256)
    assert [e.prompt for e in own] == [e.prompt for e in sampled]
    assert [e.completion for e in own] != [e.completion for e in sampled]
