"""How long a run will take and how much memory, before it is started."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from telltune.models.packing import pack
from telltune.training.trainer import Sources, StepSampler

if TYPE_CHECKING:
    from telltune.methods.preparation import Prepared

__all__ = ["computed_tokens", "estimated_memory_gib", "estimated_seconds"]

# Measured on two Zen 3 cores, SmolLM2-135M, fp32: of the GEMM rate at the model's own shape,
# training reaches this share in products that count (forward, and backward to activations).
_EFFICIENCY = 0.6
# Dropout draws a random number for every input of every adapted layer.
_DROPOUT_FACTOR = 1.35
_START_SECONDS = 3.0
_STEPS_LOOKED_AT = 16


def computed_tokens(prepared: Prepared, budget: int) -> int:
    """Tokens that training computes: prefixes that a row's examples share count once.

    The first steps are packed as training will pack them, and the rest taken to be like them.
    """
    sources = Sources(prepared.task, prepared.general)
    seen = computed = 0
    for step in islice(StepSampler(prepared.mixture, prepared.epochs), _STEPS_LOOKED_AT):
        examples = [sources[key] for key in step]
        rows = [(ids, prompt) for _, ids, prompt in examples]
        seen += sum(len(ids) for ids, _ in rows)
        batches = pack(rows, budget, sources=[task for task, _, _ in examples])
        computed += sum(batch.input_ids.numel() for batch in batches)
    return round(prepared.counts.trained_tokens * computed / max(seen, 1))


def estimated_seconds(config: Any, tokens: int, *, bf16: bool, dropout: bool) -> float:
    """Seconds of training, from a short matrix product of this machine.

    The base is frozen, so a token costs 4 FLOP a weight: 2 forward, 2 backward to activations.
    """
    flop = 4.0 * _layer_weights(config) * tokens
    factor = _DROPOUT_FACTOR if dropout else 1.0
    return _START_SECONDS + factor * flop / (_EFFICIENCY * _gemm_rate(config, bf16=bf16))


def estimated_memory_gib(
    config: Any, micro_batch_tokens: int, longest: int, *, bf16: bool
) -> float:
    """Peak memory of a fit, in GiB: libraries, weights, and what backward needs of one row."""
    text = config.get_text_config()
    width = 2 if bf16 else 4
    weights = (_layer_weights(config) + text.vocab_size * text.hidden_size) * width
    tokens = max(micro_batch_tokens, longest)
    layers, hidden, inner = text.num_hidden_layers, text.hidden_size, _inner(text)
    # Kept for backward, a layer and token: about ten hidden vectors and five of the MLP.
    activations = tokens * layers * (10 * hidden + 5 * inner) * width
    # Logits exist at response positions only; a third of a row is a generous share.
    logits = tokens / 3 * text.vocab_size * 4 * 3
    return float((weights + activations + logits) / 2**30 + 0.6)


def _inner(text: Any) -> int:
    return int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size)


def _layer_weights(config: Any) -> int:
    """Weights of all layers, embeddings not counted."""
    text = config.get_text_config()
    hidden, heads = text.hidden_size, text.num_attention_heads
    width = getattr(text, "head_dim", None) or hidden // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    attention = hidden * width * (2 * heads + 2 * key_heads)
    gated = 3 if getattr(text, "hidden_act", "") in ("silu", "swish", "gelu_pytorch_tanh") else 2
    return int(text.num_hidden_layers * (attention + gated * hidden * _inner(text)))


def _gemm_rate(config: Any, *, bf16: bool) -> float:
    """FLOP/s of a product at the model's MLP shape, the best within a third of a second."""
    import torch

    text = config.get_text_config()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if bf16 else torch.float32
    a = torch.ones(512, text.hidden_size, dtype=dtype, device=device)
    b = torch.ones(_inner(text), text.hidden_size, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + 0.3
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * 512 * float(text.hidden_size) * _inner(text) / best
