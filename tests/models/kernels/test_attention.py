"""Whether a model uses the attention that it is given, and whether a trial sees its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_packing import SMALL, random_model
from transformers.models.mistral import modeling_mistral

from telltune.models.kernels import attention
from telltune.models.kernels.attention import (
    agrees,
    asks_attention,
    packed_attention,
    tried_once,
)
from telltune.models.kernels.packing import can_pack

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_says_whether_it_uses_the_attention(tiny_base: Any) -> None:
    assert not asks_attention(tiny_base.model)
    with packed_attention(tiny_base.model):
        assert asks_attention(tiny_base.model)


@pytest.mark.parametrize("kind", ["MistralConfig", "Gemma3TextConfig"])
def test_windows_are_short_during_a_trial_only(kind: str) -> None:
    wide, short = (
        random_model(kind, {**SMALL, "head_dim": 8, "sliding_window": n}) for n in (1000, 4)
    )
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        wanted, windowed = wide(ids).logits, short(ids).logits
        assert not torch.allclose(wanted, windowed)
        tried: list[torch.Tensor] = []

        def plain() -> torch.Tensor:
            tried.append(wide(ids).logits)
            return tried[0]

        agrees(wide, packed_attention(wide), lambda: wanted, plain)
        torch.testing.assert_close(tried[0], windowed)
        torch.testing.assert_close(wide(ids).logits, wanted)


def test_attention_that_does_not_tell_of_a_wide_window_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("MistralConfig", {**SMALL, "sliding_window": 1000})
    assert can_pack.__wrapped__(model)  # type: ignore[attr-defined]

    def untold(holder: object, name: str, other: object) -> Any:
        return None if name == "sliding_window" else getattr(holder, name, other)

    # The mask still has the window.
    monkeypatch.setattr(modeling_mistral, "getattr", untold, raising=False)
    assert not can_pack.__wrapped__(model)  # type: ignore[attr-defined]


class Trial:
    """Trial that always ends alike; `runs` counts how often each of its processes ran it."""

    def __init__(self, ending: object) -> None:
        self.ending, self.runs = ending, 0

    def by_a_new_process(self, model: Any) -> object:
        def trial(model: Any) -> object:
            self.runs += 1
            return self.ending

        attention._surroundings.cache_clear()
        return tried_once(trial)(model)


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path))
    return random_model("LlamaConfig", SMALL)


def test_what_a_model_passed_is_not_tried_again_by_the_next_process(llama: Any) -> None:
    trial = Trial("quick")
    found = [trial.by_a_new_process(llama) for _ in range(3)]
    assert (found, trial.runs) == (["quick"] * 3, 1)


def test_what_a_model_did_not_pass_is_tried_again(llama: Any) -> None:
    trial = Trial(ending=False)
    assert [trial.by_a_new_process(llama) for _ in range(3)] == [False] * 3
    assert trial.runs == 3


def test_other_models_code_and_packages_are_tried_anew(
    llama: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial = Trial(ending=True)
    trial.by_a_new_process(llama)
    trial.by_a_new_process(random_model("LlamaConfig", SMALL | {"num_hidden_layers": 1}))
    assert trial.runs == 2
    llama.model.norm = torch.nn.LayerNorm(llama.config.hidden_size)
    trial.by_a_new_process(llama)
    assert trial.runs == 3
    monkeypatch.setattr(attention, "version", lambda _: "another")
    trial.by_a_new_process(llama)
    assert trial.runs == 4
    (tmp_path / "attention.py").write_text("# changed")
    monkeypatch.setattr(attention, "__file__", str(tmp_path / "attention.py"))
    trial.by_a_new_process(llama)
    assert trial.runs == 5


@pytest.mark.parametrize("of", ["own code", "several processes"])
def test_a_model_with_code_of_its_own_or_of_several_processes_is_tried_by_each(
    llama: Any, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    class Config(type(llama.config)):  # type: ignore[misc]
        pass

    if of == "own code":
        llama.config.__class__ = Config
    else:
        monkeypatch.setattr(attention.distributed, "is_initialized", lambda: True)
    trial = Trial(ending=True)
    assert [trial.by_a_new_process(llama) for _ in range(2)] == [True, True]
    assert trial.runs == 2


def test_without_a_cache_folder_each_process_tries(
    llama: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "file"))
    trial = Trial(ending=True)
    assert [trial.by_a_new_process(llama) for _ in range(2)] == [True, True]
    assert trial.runs == 2
