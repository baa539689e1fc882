"""A packed row computes what each example computes alone, and only the needed logits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.layout import CHUNK
from telltune.models.kernels.packing import can_pack, pack, token_nll

VOCABULARY = 50
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
GPT_2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.5,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SMALL),
    "GPT-2": ("GPT2Config", GPT_2),
    # Windows are shorter than the examples, and the cap bends most scores.
    "Mistral": ("MistralConfig", {**SMALL, "sliding_window": 4}),
    "Gemma 2": (
        "Gemma2Config",
        {**SMALL, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0},
    ),
    "gpt-oss": (
        "GptOssConfig",
        {**SMALL, "head_dim": 8, "sliding_window": 4, "num_local_experts": 2}
        | {"num_experts_per_tok": 1},
    ),
    "Qwen2": ("Qwen2Config", SMALL),
}
NOT_PACKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": (
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    ),
    "RWKV": (
        "RwkvConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 64},
    ),
    # Attention layers could be packed, but its short convolutions read the example before.
    "LFM2": ("Lfm2Config", {**SMALL, "layer_types": ["conv", "full_attention"]}),
    # Their own attention, which ignores the setting.
    "GPT-J": (
        "GPTJConfig",
        {**{k: GPT_2[k] for k in ("vocab_size", "n_embd", "n_layer", "n_head")}, "rotary_dim": 4},
    ),
    "BLOOM": (
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
    # A token sees its own chunk only. The chunks are far longer than the texts of the trial.
    "Llama 4": (
        "Llama4TextConfig",
        {**SMALL, "head_dim": 8, "attention_chunk_size": 1000, "num_local_experts": 2}
        | {"intermediate_size_mlp": 32},
    ),
}


def random_model(kind: str, values: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(pad_token_id=0, bos_token_id=1, eos_token_id=2, **values)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def random_rows(*lengths: tuple[int, int]) -> list[tuple[np.ndarray, int]]:
    generator = np.random.default_rng(3)
    return [
        (generator.integers(3, VOCABULARY, length).astype(np.int32), prompt)
        for length, prompt in lengths
    ]


OPENING = random_rows((10, 10))[0][0]
# Rows of various lengths, and two with a common start.
ROWS = [
    *random_rows((9, 4), (14, 2), (3, 1), (11, 10), (5, 0)),
    *((np.concatenate([OPENING, ids]), 11) for ids, _ in random_rows((5, 0), (3, 0))),
]


def by_row(model: Any, rows: Any, budget: int, *, together: bool) -> list[torch.Tensor]:
    """Return the nll of each target of each example."""
    found: dict[int, torch.Tensor] = {}
    with packed_attention(model) if together else nullcontext():
        for batch in pack(rows, budget, together=together):
            nll = token_nll(model, batch)
            for row in batch.rows.unique().tolist():
                found[row] = nll[batch.rows == row]
    return [found[row] for row in range(len(rows))]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(*CONFIGS[request.param])


def test_packed_is_what_apart_is(model: Any) -> None:
    with torch.no_grad():
        packed = by_row(model, ROWS, 64, together=True)
        apart = by_row(model, ROWS, 64, together=False)
    for together, alone in zip(packed, apart, strict=True):
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


# Small, as weights at the start, so that states are close to zero.
FAINT = {**SMALL, "initializer_range": 0.02}
HYBRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Jamba": (
        "JambaConfig",
        {**FAINT, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2}
        | {"num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    "Falcon-H1": (
        "FalconH1Config",
        {**FAINT, "head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32}
        | {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16},
    ),
    # transformers does not count its short convolutions as state.
    "LFM2": (
        "Lfm2Config",
        {**FAINT, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
}


@pytest.mark.parametrize("kind", HYBRIDS)
def test_what_passes_beside_attention_is_seen_however_little_it_is(kind: str) -> None:
    model = random_model(*HYBRIDS[kind])
    with torch.no_grad():
        packed = by_row(model, ROWS, 64, together=True)
        apart = by_row(model, ROWS, 64, together=False)
    differences = [float((a - b).abs().max()) for a, b in zip(packed, apart, strict=True)]
    # Too small a difference to be seen when losses are compared.
    assert max(differences) < 1e-3
    assert not can_pack(model)


def test_loss_and_gradients_are_those_of_the_models_own_loss(model: Any) -> None:
    packed = by_row(model, ROWS, 30, together=True)
    torch.cat(packed).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for (ids, prompt_length), nll in zip(ROWS, packed, strict=True):
        input_ids = torch.tensor(ids, dtype=torch.int64)[None]
        labels = input_ids.clone()
        labels[:, :prompt_length] = -100
        loss = model(input_ids=input_ids, labels=labels).loss * len(nll)
        torch.testing.assert_close(nll.sum(), loss, atol=1e-4, rtol=1e-5)
        loss.backward()
    assert gradients
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_model_of_attention_only_can_be_packed(model: Any) -> None:
    before = model.config._attn_implementation
    assert can_pack(model)
    assert model.config._attn_implementation == before
    assert not model.training


@pytest.mark.parametrize("name", [*CONFIGS, *NOT_PACKABLE])
def test_half_precision_hides_nothing(name: str) -> None:
    model = random_model(*(CONFIGS | NOT_PACKABLE)[name]).to(torch.bfloat16)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    # Ignore the cached result for this kind of model.
    assert can_pack.__wrapped__(model) == (name in CONFIGS)  # type: ignore[attr-defined]
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", NOT_PACKABLE)
def test_a_model_that_packing_would_change_is_computed_apart(name: str) -> None:
    model = random_model(*NOT_PACKABLE[name])
    assert not can_pack(model)
    with torch.no_grad():
        for (ids, prompt_length), nll in zip(
            ROWS, by_row(model, ROWS, 64, together=False), strict=True
        ):
            input_ids = torch.tensor(ids, dtype=torch.int64)[None]
            first = max(prompt_length, 1)
            logits = model(input_ids=input_ids).logits[0, first - 1 : -1].log_softmax(-1)
            wanted = -logits.gather(1, input_ids[0, first:, None])[:, 0]
            torch.testing.assert_close(nll, wanted, atol=1e-5, rtol=1e-5)


def test_logits_are_computed_at_targets_only(model: Any) -> None:
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    batches = pack(ROWS, 64)
    with torch.no_grad(), packed_attention(model):
        for batch in batches:
            token_nll(model, batch)
    assert seen == [len(batch.targets) for batch in batches]
    assert sum(seen) == sum(len(ids) - max(prompt, 1) for ids, prompt in ROWS)


EXAMPLES = st.tuples(
    # Tokens of the common opening, own tokens, length of the prompt, source.
    st.integers(0, 20),
    st.integers(1, 25),
    st.integers(0, 45),
    st.integers(0, 1),
)


@settings(max_examples=60)
@given(st.lists(EXAMPLES, min_size=1, max_size=15), st.integers(1, 80), st.booleans())
def test_every_example_is_packed_once_and_within_the_budget(
    drawn: list[tuple[int, int, int, int]], budget: int, together: bool
) -> None:
    generator = np.random.default_rng(3)
    opening = np.arange(20)
    rows = []
    for shared, own, prompt, _ in drawn:
        ids = np.concatenate([opening[:shared], generator.integers(20, 50, own)]).astype(np.int32)
        rows.append((ids, min(prompt, len(ids))))
    sources = [source for *_, source in drawn]
    batches = pack(rows, budget, sources=sources, together=together)
    for batch in batches:
        row_ids, places = batch.input_ids[0], batch.position_ids[0]
        assert len(places) == len(row_ids)
        assert batch.tokens <= budget or len(batch.rows.unique()) <= 1
        filler = len(row_ids) - batch.tokens
        assert (filler < CHUNK and len(row_ids) % CHUNK == 0) if together else filler == 0
        # The segments partition the row, and each continues where its prefix ends.
        segments = batch.layout.segments
        assert sum(length for length, _ in segments) == len(row_ids)
        for part, (length, prefix) in zip(
            places.split([s.length for s in segments]), segments, strict=True
        ):
            start = segments[prefix].length if prefix >= 0 else 0
            assert part.tolist() == list(range(start, start + length))
        assert torch.equal(row_ids[batch.positions + 1], batch.targets)
        assert together or len(segments) == 1
    for i, (ids, prompt_length) in enumerate(rows):
        targets = torch.cat([batch.targets[batch.rows == i] for batch in batches])
        assert targets.tolist() == ids[max(prompt_length, 1) :].tolist()
    # Joined with its prefix, each example occurs once.
    whole = []
    for batch in batches:
        segments = batch.layout.segments
        parts = batch.input_ids[0].split([s.length for s in segments])
        whole += [
            (parts[prefix].tolist() if prefix >= 0 else []) + part.tolist()
            for number, (part, (_, prefix)) in enumerate(zip(parts, segments, strict=True))
            if all(s.prefix != number for s in segments)
        ]
        # The last example fills the row.
        del whole[len(whole) - (len(batch.input_ids[0]) > batch.tokens) :]
    assert sorted(whole) == sorted(ids.tolist() for ids, _ in rows)


def test_what_examples_share_stands_in_a_row_once() -> None:
    ids = [np.array([*range(20), 30 + i, 40], np.int32) for i in range(4)]
    [batch] = pack([(row, 21) for row in ids], 64)
    assert batch.tokens == 20 + 4 * 2
    # Sources have different prefixes, since one of them has an anchor.
    [batch] = pack([(row, 21) for row in ids], 64, sources=[0, 0, 1, 1])
    assert batch.tokens == 2 * 20 + 4 * 2
