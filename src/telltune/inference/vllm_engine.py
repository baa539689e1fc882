"""Generation with vLLM: one engine for a base, and an adapter folder for each adapter on it.

vLLM loads the base from where ours came from, into a process of its own, so that nothing it does
there (seeds, threads, memory) touches training. Adapters reach it as LoRA folders.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
import torch

from telltune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["VllmGenerator"]

# What vLLM takes for `max_lora_rank`, from a recipe's default rank on: few engines start anew.
_RANKS = (16, 32, 64, 128, 256, 320, 512)
# What PEFT's LoRA can do and vLLM cannot, and the values that do not ask for it.
_BEYOND_LORA: dict[str, tuple[object, ...]] = {
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "use_dora": (None, False),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
}
# How far vLLM's log-likelihoods of random tokens may be from the model's own, in nats on average.
# Measured on SmolLM2-135M: 0.00002 in fp32 and 0.07 to 0.16 in bf16 with the right weights; 1.7 to
# 3.3 with a trained adapter left out. One that was hardly trained hides in what bf16 rounds off.
_AGREES = 1e-3
_AGREES_ROUNDED = 0.5
_PROBE_TOKENS = 32


@dataclass(frozen=True)
class _Base:
    """What vLLM is told to load.

    Attributes:
        place: A folder or a hub id.
        commit: The hub's, of what was loaded; None for a folder.
        own_code: Whether the model ships with code, which has been trusted already.
        dtype: As torch names it.
    """

    place: str
    commit: str | None
    own_code: bool
    dtype: str


# The engine that runs, and the largest rank that it takes: one at most, each holds a model.
_running: dict[_Base, tuple[Any, int]] = {}
# Why a base's engine did not start, or died: a study does not wait for it again at every adapter.
_failed: dict[_Base, ModelError] = {}
# vLLM knows adapters and answers by numbers that must not come twice.
_numbers = count(1)


@dataclass
class VllmGenerator:
    """Continues prompts with vLLM.

    Attributes:
        model: A causal language model as `load_base` gave it, with or without a LoRA adapter; it
            must not change afterwards.

    Raises:
        ModelError: vLLM is not installed, does not start, or would not answer as this model.
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
        """As `Generator.generate`.

        Raises:
            ModelError: A prompt and its longest answer are longer than the model's context, or
                than what the memory given to vLLM holds; or vLLM fails.
        """
        engine = _started(self._base, self._rank)
        room = engine.model_config.max_model_len
        longest = max((len(prompt) for prompt in prompts), default=0) + max_new_tokens
        if longest > room:
            raise ModelError(
                f"a prompt and its answer may take {longest} tokens, and vLLM has room for {room}; "
                "lower evaluation.max_new_tokens or set evaluation.engine: packed."
            )
        # Of torch's own draws, so that a run that is seeded repeats, whatever vLLM answers first.
        seeds = torch.randint(2**31, (len(prompts),)).tolist() if temperature > 0 else None
        asked = [
            {
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "stop_token_ids": sorted(stop_ids),
                # `stop_ids` alone say where an answer ends.
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
        """What vLLM says to each prompt, in their order.

        Args:
            engine: Holds this generator's adapter.
            prompts: Token ids.
            asked: Of each prompt, the values of vLLM's SamplingParams.
            on_done: As in `generate`.
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
            # It still has prompts that nobody waits for.
            _stop()
            raise
        return [outputs[name] for name in names]

    def _hand_over(self, engine: Any) -> Any:
        """Write the adapter where vLLM reads it, and have it read at once.

        vLLM may read it again after another one, so the folder stays as long as this generator.
        """
        from vllm.lora.request import LoRARequest

        folder = TemporaryDirectory(prefix="telltune-vllm-")
        finalize(self, folder.cleanup)
        self.model.save_pretrained(folder.name)
        number = next(_numbers)
        request = LoRARequest(f"telltune-{number}", number, folder.name)
        try:
            engine.add_lora(request)
        except Exception as error:  # vLLM has no kind of its own for this
            raise _explained("does not take this adapter", error) from error
        return request

    def _compare(self, engine: Any) -> None:
        """Refuse to answer with other weights than the model's: tried, not guessed.

        Weights may have been changed in memory, and vLLM leaves out some parts of an adapter
        without a word. The likelihoods of random tokens tell.
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
                "vLLM cannot answer with this model: it gives random tokens likelihoods that are "
                f"{apart:.2g} nats from the model's own."
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
    """The largest of the adapter's layers, or 0 where there is none."""
    if not _adapted(model):
        return 0
    config = model.peft_config["default"]
    return int(max([config.r, *config.rank_pattern.values()]))


def _refusal(model: Any) -> str:
    """Why vLLM cannot have the model's weights, or nothing."""
    if not _base_of(model).place:
        return "it was not loaded from a folder or the hub"
    if _adapted(model):
        if list(model.active_adapters) != ["default"]:
            return f"its active adapters are {', '.join(model.active_adapters)}"
        config = model.peft_config["default"]
        if config.peft_type != "LORA":
            return f"its adapter is {config.peft_type.value}, not LoRA"
        beyond = [
            name
            for name, neutral in _BEYOND_LORA.items()
            if getattr(config, name, None) not in neutral
        ]
        if beyond:
            return f"its adapter uses {', '.join(beyond)}, which vLLM does not know"
        if _rank_of(model) > _RANKS[-1]:
            return f"its adapter has rank {_rank_of(model)}, and {_RANKS[-1]} is the most"
    if any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name):
        return "weights of the base were trained, and vLLM would read those from before"
    return ""


def _started(base: _Base, rank: int) -> Any:
    """The engine for a base, started if it does not run yet or takes smaller adapters only.

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
    except Exception as error:  # of vLLM's start, or of anything that it imports
        _failed[base] = _explained("does not start", error)
        raise _failed[base] from error
    return _running[base][0]


def _start(base: _Base, rank: int) -> Any:
    # Read when vLLM is imported. Its log goes to stdout, where --json prints, if nobody says
    # otherwise; and it reports each start to its makers, which nobody here was asked about.
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
        # Token ids come in and go out.
        skip_tokenizer_init=True,
        # As long as the model's context, or as the memory allows.
        max_model_len=-1,
        # Nothing that a model's generation_config wishes.
        generation_config="vllm",
        # The anchor and the system turn are computed once.
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
    """How much vLLM may take, as its arguments.

    The engine stays while the next adapter of a study is trained, and training wants the rest.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return {"gpu_memory_utilization": 0.5 * free / total}
    import psutil

    # For keys and values alone; on a CPU vLLM fills all of it at its start.
    return {"kv_cache_memory_bytes": min(4 * 2**30, psutil.virtual_memory().available // 2)}


@contextmanager
def _no_script() -> Iterator[None]:
    """Let new processes come up without the user's script.

    multiprocessing runs it again in each, for what may be pickled from it. A script that calls
    telltune outside of `if __name__ == "__main__":` would train there once more.
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
