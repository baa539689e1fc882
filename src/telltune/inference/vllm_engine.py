"""Generation with vLLM: one engine per base model, and one LoRA folder per adapter.

vLLM loads the base from the same source in a separate process, so that its seeds, threads and
memory do not affect training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from weakref import finalize

import numpy as np
import torch

from telltune.errors import ModelError

# Values of `max_lora_rank` that vLLM accepts, from the default rank of recipes on, so that engines
# are seldom restarted.
_RANKS = (16, 32, 64, 128, 256, 320, 512)
# LoRA options of PEFT that vLLM refuses or, as the patterns, ignores, and their neutral values.
_BEYOND_LORA: dict[str, tuple[object, ...]] = {
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "use_dora": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
}
# Maximum mean difference, in nats, between log-likelihoods of random tokens by vLLM and the model.
# On SmolLM2-135M it is 0.00002 in fp32 and 0.07 to 0.16 in bf16 with the right weights, and 1.7 to
# 3.3 without a trained adapter. In bf16 a barely trained adapter is not distinguishable.
_AGREES = 1e-3
_AGREES_ROUNDED = 0.5
_PROBE_TOKENS = 32


@dataclass(frozen=True)
class _Base:
    """Base model that vLLM loads.

    Attributes:
        place: Folder or hub id.
        commit: Commit of the loaded model on the hub; None for a folder.
        own_code: Whether the model contains code, which the user has already trusted.
        dtype: Name of the torch dtype.
    """

    place: str
    commit: str | None
    own_code: bool
    dtype: str


# The running engine and its largest rank. At most one runs, since each holds a model in memory.
_running: dict[_Base, tuple[Any, int]] = {}
# Errors of engines that failed. A study does not start such an engine again for each adapter.
_failed: dict[_Base, ModelError] = {}
# vLLM identifies adapters and requests by unique numbers.
_numbers = count(1)


@dataclass
class VllmGenerator:
    """Generator that runs vLLM.

    Attributes:
        model: Causal language model from `load_base`, with or without a LoRA adapter; it must not
            change afterwards.

    Raises:
        ModelError: vLLM is not installed, does not start, or would not reproduce this model.
    """

    model: Any

    def __post_init__(self) -> None:
        refusal = _refusal(self.model)
        if refusal:
            raise ModelError(f"vLLM cannot answer with this model: {refusal}.")
        self._base = _base_of(self.model)
        self._rank = _rank_of(self.model)
        self._adapter: Any = None
        engine = _started(self._base, self._rank)
        if self._rank:
            self._adapter = self._hand_over(engine)
        self._compare(engine)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt; see `Generator.generate`.

        Raises:
            ModelError: A prompt and its longest answer exceed the model's context or the memory
                given to vLLM, or vLLM fails.
        """
        engine = _started(self._base, self._rank)
        room = engine.model_config.max_model_len
        longest = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
        if longest > room:
            raise ModelError(
                f"a prompt and its answer may need {longest} tokens, but vLLM allows {room}; "
                "lower evaluation.max_new_tokens or set evaluation.engine: packed."
            )
        # Seeds from torch's generator make a seeded run repeatable in any order of vLLM's answers.
        seeds = torch.randint(2**31, (len(prompts),)).tolist() if temperature > 0 else None
        asked = [
            {
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "stop_token_ids": sorted(stop_ids),
                # Only `stop_ids` end an answer.
                "ignore_eos": True,
                "seed": seeds[i] if seeds else None,
            }
            for i in range(len(prompts))
        ]
        outputs = self._run(engine, prompts, asked, on_done)
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        return [answer[:-1] if answer and answer[-1] in stop_ids else answer for answer in answers]

    def _run(
        self,
        engine: Any,
        prompts: Sequence[Sequence[int]],
        asked: Sequence[dict[str, Any]],
        on_done: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Return vLLM's output for each prompt, in order.

        Args:
            engine: Engine that has loaded this generator's adapter.
            prompts: Token ids of each prompt.
            asked: Arguments of vLLM's SamplingParams for each prompt.
            on_done: Callback as in `generate`.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        form = {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
        names = [str(next(_numbers)) for _ in prompts]
        outputs = {}
        try:
            for name, prompt, values in zip(names, prompts, asked, strict=True):
                tokens = {"type": "token", "prompt_token_ids": list(prompt)}
                parameters = SamplingParams(**values, **form)
                engine.add_request(name, tokens, parameters, lora_request=self._adapter)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    outputs[output.request_id] = output
                    if on_done is not None:
                        on_done(1)
        except Exception as error:
            _stop()
            _failed[self._base] = _explained("stopped answering", error)
            raise _failed[self._base] from error
        except BaseException:
            # The engine still has unfinished requests.
            _stop()
            raise
        return [outputs[name] for name in names]

    def _hand_over(self, engine: Any) -> Any:
        """Save the adapter to a folder and load it in vLLM.

        vLLM may reload it after another adapter, so the folder exists as long as this generator.
        """
        from vllm.lora.request import LoRARequest

        folder = TemporaryDirectory(prefix="telltune-vllm-")
        finalize(self, folder.cleanup)
        self.model.save_pretrained(folder.name)
        number = next(_numbers)
        request = LoRARequest(f"telltune-{number}", number, folder.name)
        try:
            engine.add_lora(request)
        except Exception as error:  # vLLM has no specific exception for this.
            raise _explained("does not take this adapter", error) from error
        return request

    def _compare(self, engine: Any) -> None:
        """Raise a ModelError if vLLM's log-likelihoods of random tokens differ from the model's.

        Weights may have been changed in memory, and vLLM silently ignores some parts of adapters.
        """
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        ids = np.random.default_rng(0).integers(0, vocabulary, _PROBE_TOKENS).tolist()
        asked = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        (output,) = self._run(engine, [ids], [asked])
        told = torch.tensor(
            [
                said[token].logprob
                for token, said in zip(ids[1:], output.prompt_logprobs[1:], strict=True)
            ]
        )
        self.model.eval()
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids], device=self.model.device)).logits[0, :-1]
        own = logits.float().log_softmax(-1).cpu()[range(len(told)), ids[1:]]
        apart = float((told - own).abs().mean())
        if not apart <= (_AGREES if self._base.dtype == "float32" else _AGREES_ROUNDED):
            raise ModelError(
                "vLLM cannot answer with this model: its log-likelihoods of random tokens differ "
                f"from the model's by {apart:.2g} nats."
            )


def _adapted(model: Any) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _base_of(model: Any) -> _Base:
    base = model.get_base_model() if _adapted(model) else model
    return _Base(
        base.config._name_or_path,
        getattr(base.config, "_commit_hash", None),
        type(base).__module__.startswith("transformers_modules"),
        str(base.dtype).removeprefix("torch."),
    )


def _rank_of(model: Any) -> int:
    """Return the rank of the adapter, or 0 without one."""
    if not _adapted(model):
        return 0
    return int(model.peft_config["default"].r)


def _refusal(model: Any) -> str:
    """Return the reason why vLLM cannot load the model's weights, or ""."""
    if not _base_of(model).place:
        return "it was not loaded from a folder or the hub"
    if _adapted(model):
        if list(model.active_adapters) != ["default"]:
            return f"its active adapters are {', '.join(model.active_adapters)}"
        config = model.peft_config["default"]
        if config.peft_type != "LORA":
            return f"its adapter is {config.peft_type.value}, not LoRA"
        beyond = beyond_vllm(vars(config))
        if beyond:
            return f"its adapter uses {', '.join(beyond)}, which vLLM does not support"
        if _rank_of(model) > _RANKS[-1]:
            return f"its adapter has rank {_rank_of(model)}, above the maximum of {_RANKS[-1]}"
    if any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name):
        return "weights of the base were trained, but vLLM would load the untrained ones"
    return ""


def beyond_vllm(config: Mapping[str, Any]) -> list[str]:
    """Return the options of PEFT's adapter configuration that vLLM does not support."""
    return [name for name, neutral in _BEYOND_LORA.items() if config.get(name) not in neutral]


def _started(base: _Base, rank: int) -> Any:
    """Return the engine of a base, and start it unless one runs that supports the rank.

    Raises:
        ModelError: vLLM is not installed or does not start.
    """
    engine, most = _running.get(base, (None, 0))
    if engine is not None and rank <= most:
        return engine
    if base in _failed:
        raise _failed[base]
    most = next(size for size in _RANKS if size >= rank)
    _stop()
    try:
        _running[base] = _start(base, most), most
    except Exception as error:  # The start or any import of vLLM may fail.
        _failed[base] = _explained("does not start", error)
        raise _failed[base] from error
    return _running[base][0]


def _start(base: _Base, rank: int) -> Any:
    # vLLM reads these variables on import. By default it logs to stdout, where --json prints, and
    # sends usage statistics to its developers without the user's consent.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import EngineArgs, LLMEngine
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ModelError("it is not installed; run `pip install telltune[vllm]`.") from None

    arguments = EngineArgs(
        model=base.place,
        revision=base.commit,
        trust_remote_code=base.own_code,
        dtype=base.dtype,
        # Inputs and outputs are token ids.
        skip_tokenizer_init=True,
        # -1 means the model's context, or as much of it as the memory allows.
        max_model_len=-1,
        # "vllm" ignores the model's generation_config.
        generation_config="vllm",
        # With caching, the anchor and the system turn are computed once.
        enable_prefix_caching=True,
        enable_lora=True,
        max_lora_rank=rank,
        max_loras=1,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **_memory(),
    )
    with _no_script():
        return LLMEngine.from_engine_args(arguments)


def _stop() -> None:
    while _running:
        _, (engine, _) = _running.popitem()
        engine.engine_core.shutdown()


def _memory() -> dict[str, Any]:
    """Return vLLM's memory arguments.

    The engine keeps running while the next adapter of a study is trained in the remaining memory.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return {"gpu_memory_utilization": 0.5 * free / total}
    import psutil

    # This is the memory of keys and values. On a CPU vLLM allocates all of it at the start.
    return {"kv_cache_memory_bytes": min(4 * 2**30, psutil.virtual_memory().available // 2)}


@contextmanager
def _no_script() -> Iterator[None]:
    """Start new processes without the user's script.

    multiprocessing imports the script in each new process. A script that calls telltune outside of
    `if __name__ == "__main__":` would train there again.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _explained(what: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return ModelError(f"vLLM {what}: {reason}.")
