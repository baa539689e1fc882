"""vLLM gets the model's weights, and its answers are returned like those of other engines.

vLLM itself is a fake, which answers with transformers and the weights that it is told to load. The
last test runs the real vLLM if it is installed.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.errors import ModelError
from telltune.inference import engine as engines
from telltune.inference import vllm_engine
from telltune.inference.engine import make_generator
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.transformers_engine import TransformersGenerator
from telltune.inference.vllm_engine import VllmGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

END = 2
draws = np.random.default_rng(5)
PROMPTS = [draws.integers(3, 400, n).tolist() for n in (9, 3, 17, 5, 3, 12, 1, 8)]

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
}


class FakeEngine:
    """The used part of vLLM's LLMEngine."""

    started: list[FakeEngine]

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.model_config = SimpleNamespace(max_model_len=512)
        self.engine_core = SimpleNamespace(shutdown=lambda: setattr(self, "running", False))
        self.running = True
        self.asked: list[Any] = []
        self.waiting: list[Any] = []
        self.loras: list[Any] = []
        self.loaded: dict[int | None, Any] = {}
        self.script = getattr(sys.modules["__main__"], "__file__", None)

    @classmethod
    def from_engine_args(cls, arguments: Any) -> FakeEngine:
        cls.started.append(cls(arguments))
        return cls.started[-1]

    def add_lora(self, request: Any) -> bool:
        self.loras.append(request)
        return True

    def add_request(self, name: str, prompt: Any, params: Any, lora_request: Any) -> None:
        assert self.running
        assert params.output_kind == "the whole answer"
        self.asked.append(params)
        self.waiting.append((name, prompt["prompt_token_ids"], params, lora_request))

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[Any]:
        """Finish the last of the waiting prompts first."""
        name, prompt, params, lora = self.waiting.pop()
        model = self.model(lora)
        (answer,) = TransformersGenerator(model, END).generate(
            [prompt], max_new_tokens=params.max_tokens, stop_ids=set()
        )
        stop = params.stop_token_ids or []
        ends = [i + 1 for i, token in enumerate(answer) if token in stop]
        told = self.likelihoods(model, prompt) if params.prompt_logprobs is not None else None
        kept = SimpleNamespace(token_ids=tuple(answer[: min(ends, default=None)]))
        return [SimpleNamespace(request_id=name, outputs=[kept], prompt_logprobs=told)]

    def model(self, lora: Any) -> Any:
        """Return the base, or an adapter by its number, loaded when it is first asked."""
        number = None if lora is None else lora.number
        if number not in self.loaded:
            self.loaded[number] = self.load(lora)
        return self.loaded[number]

    def load(self, lora: Any) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, self.arguments.dtype)
        base = AutoModelForCausalLM.from_pretrained(self.arguments.model, dtype=dtype)
        return base if lora is None else PeftModel.from_pretrained(base, lora.lora_path)

    @staticmethod
    def likelihoods(model: Any, prompt: list[int]) -> list[Any]:
        import torch

        with torch.inference_mode():
            found = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        pairs = zip(prompt[1:], found, strict=False)
        return [None, *({t: SimpleNamespace(logprob=float(row[t]))} for t, row in pairs)]


def fake_params(**values: Any) -> Any:
    return SimpleNamespace(**{"stop_token_ids": None, "prompt_logprobs": None, **values})


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    vllm_engine._stop()
    vllm_engine._failed.clear()
    engines._warn.cache_clear()


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Install a fake vLLM; return the list of its engines."""
    FakeEngine.started = []
    names = ("vllm", "vllm.sampling_params", "vllm.lora", "vllm.lora.request")
    package, sampling, lora, request = (ModuleType(name) for name in names)
    package.EngineArgs = SimpleNamespace  # type: ignore[attr-defined]
    package.LLMEngine = FakeEngine  # type: ignore[attr-defined]
    package.SamplingParams = fake_params  # type: ignore[attr-defined]
    sampling.RequestOutputKind = SimpleNamespace(  # type: ignore[attr-defined]
        FINAL_ONLY="the whole answer"
    )
    request.LoRARequest = lambda name, number, path: SimpleNamespace(  # type: ignore[attr-defined]
        name=name, number=number, lora_path=path
    )
    for module in (package, sampling, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return FakeEngine.started


def adapted(model: Any, rank: int = 4, seed: int = 0, **more: Any) -> Any:
    """Return the model with a random adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **more,
    )
    return get_peft_model(model, config).eval()


def answers(engine: Any, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 12, "stop_ids": {END}, **options}
    found: list[list[int]] = engine.generate(PROMPTS, **options)
    return found


def test_answers_come_in_the_order_of_the_prompts_without_stop_tokens(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    engine = make_generator(tiny_base.model, END, engine="vllm")
    wanted = answers(PackedGenerator(tiny_base.model))
    assert answers(engine) == wanted
    *_, one, other = sorted(wanted, key=len)
    stop = {one[4], other[7], END}
    cut = answers(engine, stop_ids=stop)
    assert cut == answers(PackedGenerator(tiny_base.model), stop_ids=stop)
    assert cut != wanted
    done: list[int] = []
    answers(engine, on_done=done.append)
    assert done == [1] * len(PROMPTS)
    assert engine.generate([], max_new_tokens=2, stop_ids={END}) == []


def test_vllm_is_told_what_to_load(
    tiny_base: Any, tiny_model: Path, vllm: list[FakeEngine]
) -> None:
    VllmGenerator(tiny_base.model)
    asked = vars(vllm[0].arguments)
    assert asked["model"] == str(tiny_model)
    assert asked["revision"] is None
    assert asked["trust_remote_code"] is False
    assert asked["dtype"] == "float32"
    assert asked["generation_config"] == "vllm"
    assert asked["enable_prefix_caching"]
    assert 0 < asked["kv_cache_memory_bytes"] <= 4 * 2**30


def test_the_users_script_is_not_run_in_vllms_processes(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    script = sys.modules["__main__"]
    VllmGenerator(tiny_base.model)
    assert vllm[0].script is None
    assert sys.modules["__main__"] is script


def test_one_engine_serves_all_adapters_of_a_base(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    said = []
    generators = [VllmGenerator(tiny_base.model)]
    wanted = [answers(PackedGenerator(tiny_base.model))]
    for seed in (1, 2):
        model = adapted(tiny_base.model, seed=seed)
        generators.append(VllmGenerator(model))
        wanted.append(answers(PackedGenerator(model)))
        model.unload()
    # These are not the weights that were loaded last, so they must be read again.
    said = [answers(generator) for generator in generators]
    assert said == wanted
    assert len({str(answer) for answer in said}) == 3
    assert len(vllm) == 1
    assert len({(lora.name, lora.number) for lora in vllm[0].loras}) == 2


def test_a_larger_rank_takes_a_new_engine(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    small = VllmGenerator(tiny_base.model)
    model = adapted(tiny_base.model, rank=17)
    large = VllmGenerator(model)
    assert [engine.arguments.max_lora_rank for engine in vllm] == [16, 32]
    assert [engine.running for engine in vllm] == [False, True]
    assert answers(large) == answers(PackedGenerator(model))
    model.unload()
    assert answers(small) == answers(PackedGenerator(tiny_base.model))
    assert len(vllm) == 2


def test_another_base_takes_the_place_of_the_first(
    tiny_base: Any, vllm: list[FakeEngine], tmp_path: Path
) -> None:
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    VllmGenerator(tiny_base.model)
    tiny_base.model.save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    VllmGenerator(load_base(ModelSpec(name=str(tmp_path)), "fp32").model)
    assert [engine.arguments.model for engine in vllm][1] == str(tmp_path)
    assert [engine.running for engine in vllm] == [False, True]


def test_the_adapters_folder_goes_with_the_generator(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    generator = VllmGenerator(adapted(tiny_base.model))
    folder = Path(vllm[0].loras[0].lora_path)
    assert (folder / "adapter_config.json").exists()
    del generator
    gc.collect()
    assert not folder.exists()


def test_greedy_answers_are_asked_for_without_sampling(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    generator = VllmGenerator(tiny_base.model)
    vllm[0].asked.clear()
    answers(generator, stop_ids={7, END})
    for asked in vllm[0].asked:
        assert asked.temperature == 0
        assert asked.max_tokens == 12
        assert asked.stop_token_ids == [END, 7]
        assert asked.ignore_eos
        assert asked.seed is None
        assert not asked.detokenize


def test_samples_repeat_with_torchs_seed(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    import torch

    generator = VllmGenerator(tiny_base.model)
    drawn = []
    for _ in range(2):
        vllm[0].asked.clear()
        torch.manual_seed(3)
        answers(generator, temperature=0.8)
        drawn.append([asked.seed for asked in vllm[0].asked])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(PROMPTS)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"lora_bias": True}, "lora_bias"),
        ({"rank": 600}, "rank 600"),
    ],
)
def test_what_vllm_does_not_know_of_lora_is_refused(
    tiny_base: Any, vllm: list[FakeEngine], more: dict[str, Any], reason: str
) -> None:
    model = adapted(tiny_base.model, **more)
    with pytest.raises(ModelError, match=reason):
        VllmGenerator(model)
    assert vllm == []


def test_another_kind_of_adapter_is_refused(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    from peft import IA3Config, get_peft_model

    config = IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"])
    with pytest.raises(ModelError, match="IA3, not LoRA"):
        VllmGenerator(get_peft_model(tiny_base.model, config))


def test_weights_that_live_in_memory_only_are_refused(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    with pytest.raises(ModelError, match="not loaded from a folder"):
        VllmGenerator(LlamaForCausalLM(type(tiny_base.model.config)(**TINY)))
    with pytest.raises(ModelError, match="were trained"):
        VllmGenerator(tiny_base.model.requires_grad_(True))
    tiny_base.model.requires_grad_(False)
    assert vllm == []
    # A change without any sign can only be found by trying.
    with torch.no_grad():
        tiny_base.model.model.layers[0].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(ModelError, match="log-likelihoods of random tokens differ"):
        VllmGenerator(tiny_base.model)


def test_an_adapter_that_vllm_leaves_out_is_noticed(
    tiny_base: Any, vllm: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeEngine.model
    monkeypatch.setattr(FakeEngine, "model", lambda self, lora: model(self, None))
    with pytest.raises(ModelError, match="log-likelihoods of random tokens differ"):
        VllmGenerator(adapted(tiny_base.model))


def test_an_adapter_that_vllm_refuses_is_told_with_its_reason(
    tiny_base: Any, vllm: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("expected target modules in {q_proj}")

    monkeypatch.setattr(FakeEngine, "add_lora", refuse)
    with pytest.raises(ModelError, match=r"not take this adapter: expected target modules in"):
        VllmGenerator(adapted(tiny_base.model))


def test_a_prompt_longer_than_vllms_room_is_told(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    generator = VllmGenerator(tiny_base.model)
    with pytest.raises(ModelError, match=r"may need 517 tokens, but vLLM allows 512"):
        answers(generator, max_new_tokens=500)


def test_an_engine_that_died_is_not_asked_again(
    tiny_base: Any, vllm: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = VllmGenerator(tiny_base.model)
    monkeypatch.setattr(FakeEngine, "step", lambda _: 1 / 0)
    for _ in range(2):
        with pytest.raises(ModelError, match="stopped answering: division by zero"):
            answers(generator)
    assert [engine.running for engine in vllm] == [False]


def test_an_interrupted_engine_starts_anew(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    generator = VllmGenerator(tiny_base.model)
    with pytest.raises(KeyboardInterrupt):
        answers(generator, on_done=interrupt)
    assert answers(generator) == answers(PackedGenerator(tiny_base.model))
    assert [engine.running for engine in vllm] == [False, True]


def test_without_vllm_its_installation_is_told(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"not installed; run `pip install telltune\[vllm\]`"):
        make_generator(tiny_base.model, END, engine="vllm")


def test_a_penalty_in_the_models_generation_config_is_refused(
    tiny_base: Any, vllm: list[FakeEngine]
) -> None:
    tiny_base.model.generation_config.repetition_penalty = 1.1
    with pytest.raises(ModelError, match=r"engine: vllm does not support .*repetition_penalty"):
        make_generator(tiny_base.model, END, engine="vllm")
    assert vllm == []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60, 80))
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if name == "vllm" else None)


def test_auto_is_vllm_on_a_gpu_and_leaves_room_for_training(
    tiny_base: Any, vllm: list[FakeEngine], gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(make_generator(tiny_base.model, END), VllmGenerator)
    assert vllm[0].arguments.gpu_memory_utilization == 0.375
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert isinstance(make_generator(tiny_base.model, END), PackedGenerator)


def test_auto_is_ours_without_a_gpu(tiny_base: Any, vllm: list[FakeEngine]) -> None:
    assert isinstance(make_generator(tiny_base.model, END), PackedGenerator)
    assert vllm == []


def test_auto_falls_back_with_one_warning(
    tiny_base: Any,
    vllm: list[FakeEngine],
    gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = []

    def refuse(arguments: Any) -> None:
        tried.append(arguments)
        raise RuntimeError("no kernel image for this GPU")

    monkeypatch.setattr(FakeEngine, "from_engine_args", refuse)
    for _ in range(2):
        assert isinstance(make_generator(tiny_base.model, END), PackedGenerator)
    assert len(tried) == 1
    (said,) = (record.message for record in caplog.records)
    assert said.startswith("vLLM does not start: no kernel image for this GPU. telltune's own")
    with pytest.raises(ModelError, match="no kernel image"):
        make_generator(tiny_base.model, END, engine="vllm")


def test_the_real_vllm_answers_as_our_engine(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    # Its attention on a CPU needs heads of at least 32.
    LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model, head_dim=32)).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).requires_grad_(False)
    said = []
    for seed in (None, 1, 2):
        asked = model if seed is None else adapted(model, seed=seed)
        said.append(answers(make_generator(asked, END, engine="vllm")))
        assert said[-1] == answers(PackedGenerator(asked))
        if seed is not None:
            asked.unload()
    assert len({str(answer) for answer in said}) == 3
    assert len(vllm_engine._running) == 1
