"""Parts that train: speed against peers and the machine, memory, cost by size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from speed_parts.reading import Result, measured, quickest, rounded, speed, why_not
from speed_parts.table import Line

if TYPE_CHECKING:
    from speed_parts.rows import Rows
    from speed_parts.setting import Setting

# (form, per device, sorted, attention, trainer): choices of a TRL user on a CPU.
Config = tuple[str, int, bool, str, str]
GOALS = {"train": ">= 4", "gemm": ">= 0.6"}


def gemm(rows: Rows, setting: Setting) -> list[Line]:
    """Measure the machine's rate of matrix products, and the share that our training uses."""
    before = _gemm(rows, setting, "before")
    ours = _ours(rows, setting, setting.sizes.steps)
    after = _gemm(rows, setting, "after")
    if not (measured(before) and measured(after) and measured(ours)):
        return [
            Line("training: share of the GEMM rate", None, None, GOALS["gemm"], "", why_not(ours))
        ]
    config = setting.config
    weights, logits = _weights(config), config.hidden_size * config.vocab_size
    rates = [product["gflops"] for product in (before, after)]
    product = round(sum(rates) / 2, 1)
    note = (
        f"{setting.dtype}, of the best shape the mean over {setting.sizes.gemm_seconds:g} s, "
        f"{rates[0]:.0f} before and {rates[1]:.0f} after ({_shapes(before)}); the best single "
        f"product {max(before['peak_gflops'], after['peak_gflops']):.0f}"
    )

    def rate(tokens: int) -> float:
        return round(_useful_flop(setting, ours, tokens) / ours["seconds"] / 1e9, 1)

    return [
        Line(
            "training: useful FLOP against the GEMM rate",
            rate(ours["computed_tokens"]),
            product,
            GOALS["gemm"],
            "GFLOP/s",
            f"{note}; per computed token 4 x {weights / 1e6:.1f}M, per response token "
            f"4 x {logits / 1e6:.1f}M; LoRA and attention not counted",
        ),
        Line(
            "training: the same, tokens as given",
            rate(ours["tokens"]),
            product,
            "",
            "GFLOP/s",
            f"shared prefixes counted each time: {ours['tokens']} tokens given, "
            f"{ours['computed_tokens']} computed",
        ),
    ]


def train(rows: Rows, setting: Setting) -> list[Line]:
    """Compare with TRL's SFTTrainer at its best, and with plain transformers."""
    ours = _ours(rows, setting, setting.sizes.steps)
    best, rejected = _best_trl(rows, setting)
    name = "training against TRL SFTTrainer, its best settings"
    if best is None:
        return [Line(name, speed(ours), None, GOALS["train"], "tokens/s", rejected)]
    dtype, config = best
    peer = _trl(rows, setting, dtype, config, setting.sizes.steps)
    plain: Config = ("padded", max(config[1], 1), True, "sdpa", "transformers")
    trainer = _trl(rows, setting, dtype, plain, setting.sizes.steps)
    curve = peer
    if config[0] == "packed":
        # Packed steps have other examples, so losses are compared with the best unpacked row.
        same = _best_trl(rows, setting, packed=False)[0]
        curve = same and _trl(rows, setting, *same, setting.sizes.steps)
    return [
        Line(
            name,
            speed(ours),
            speed(peer),
            GOALS["train"],
            "tokens/s",
            f"ours {setting.dtype}; TRL {dtype} {_title(config)}{_apart(ours, curve)}{rejected}",
            {"ours": _losses(ours), "peer": _losses(curve)},
        ),
        Line(
            "training against transformers Trainer with PEFT",
            speed(ours),
            speed(trainer),
            "",
            "tokens/s",
            f"{dtype} {_title(plain)}{_apart(ours, trainer)}{why_not(trainer)}",
        ),
    ]


def llamafactory(rows: Rows, setting: Setting) -> list[Line]:
    """Compare with LLaMA-Factory at its best."""
    ours = _ours(rows, setting, setting.sizes.steps)
    name = "training against LLaMA-Factory, its best settings"
    if not setting.llama_factory.exists():
        reason = setting.why_missing(setting.llama_factory)
        return [Line(name, speed(ours), None, GOALS["train"], "tokens/s", reason)]
    # Pure bf16 is not offered for a CPU, but `bf16` loads the base in bf16 all the same.
    dtypes = [d for d in setting.peer_dtypes if d != "bf16_base"]
    tried: list[tuple[str, str, int]] = [
        (dtype, form, size)
        for dtype in dtypes
        for form, sizes in (("padded", setting.sizes.per_device), ("packed", setting.together))
        for size in sizes
    ]
    screen = {one: _llamafactory(rows, setting, *one, setting.sizes.screen) for one in tried}
    best = quickest(screen)
    if best is None:
        failed = next((r["error"] for r in screen.values() if r), "not measured")
        return [Line(name, speed(ours), None, GOALS["train"], "tokens/s", failed)]
    peer = _llamafactory(rows, setting, *best, setting.sizes.steps)
    dtype, form, size = best
    return [
        Line(
            name,
            speed(ours),
            speed(peer),
            GOALS["train"],
            "tokens/s",
            f"0.9.5, {dtype} {_title((form, size, True, 'sdpa', ''))}{_apart(ours, peer)}"
            f"{why_not(peer)}",
            {"ours": _losses(ours), "peer": _losses(peer)},
        )
    ]


def memory(rows: Rows, setting: Setting) -> list[Line]:
    """Compare the peak memory of a whole fit with TRL's at the same batch size."""
    ours = _ours(rows, setting, setting.sizes.steps)
    best, _ = _best_trl(rows, setting)
    batch = setting.sizes.batch
    whole: Config = ("padded", batch, True, "sdpa", "trl")
    dtype = best[0] if best else setting.dtype
    steps, few = setting.sizes.steps, setting.sizes.screen
    compared = [("its quickest settings", best[1], steps)] if best else []
    # Fewer steps, since each takes half a minute; the peak over all of them is no lower.
    compared.append((f"per-device batch {batch}, its first {few} steps", whole, few))
    lines = []
    for title, config, count in compared:
        peer = _trl(rows, setting, dtype, config, count)
        lines.append(
            Line(
                f"memory of a fit against TRL, {title}",
                (ours or {}).get("peak_mib"),
                (peer or {}).get("peak_mib"),
                "<= 0.7",
                "MiB",
                f"peak RSS, {batch} examples a step; TRL {dtype} {_title(config)}{why_not(peer)}",
            )
        )
    return lines


def cost(rows: Rows, setting: Setting) -> list[Line]:
    """Measure time and memory of telltune from the smallest to the largest fit.

    Time is per useful FLOP, because fits of other sizes have other examples, with other shares of
    common prefixes and responses.
    """
    from speed_parts.workload import Workload

    path = setting.long_mixture()
    totals = Workload.load(path).step_tokens
    fits: dict[int, Result] = {}
    for wanted in setting.sizes.cost:
        steps = 2
        while steps < len(totals) and sum(totals[1:steps]) < wanted:
            steps += 1
        fits[wanted] = rows.measure(
            "cost",
            f"ours {wanted} tokens",
            "ours_train",
            setting.ours,
            setting.ours_trained(path, steps),
        )
    small, *_, large = fits.values()
    per_flop = {
        wanted: row["seconds"] / _useful_flop(setting, row, row["computed_tokens"]) * 1e12
        for wanted, row in fits.items()
        if measured(row)
    }
    tokens = {n: row["seconds"] / row["tokens"] * 1000 for n, row in fits.items() if measured(row)}
    shown = "; ".join(f"{n}: {per_flop[n]:.1f} ({t:.2f} ms a token)" for n, t in tokens.items())
    peaks = ", ".join(f"{n}: {r['peak_mib']:.0f}" for n, r in fits.items() if measured(r))
    ends = (setting.sizes.cost[-1], setting.sizes.cost[0])
    all_there = len(per_flop) == len(setting.sizes.cost)
    return [
        Line(
            f"cost: slowest against quickest time, {ends[1]:,} to {ends[0]:,} tokens",
            rounded(max(per_flop.values())) if all_there else None,
            rounded(min(per_flop.values())) if all_there else None,
            "<= 1.1",
            "s a useful TFLOP",
            f"{shown}; tokens as given",
        ),
        Line(
            f"cost: memory at {ends[0]:,} against {ends[1]:,}",
            (large or {}).get("peak_mib"),
            (small or {}).get("peak_mib"),
            "<= 1.1",
            "MiB",
            f"{peaks}; general examples: benchmarks/scale.py",
        ),
    ]


def _gemm(rows: Rows, setting: Setting, when: str) -> Result:
    config = setting.config
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    asked = {
        "dtype": setting.dtype,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "key_width": width,
        "vocabulary": config.vocab_size,
        "rows": setting.recipe.training.micro_batch_tokens,
        "seconds": setting.sizes.gemm_seconds,
        "when": when,
    }
    return rows.measure("gemm", f"machine {when}", "gemm", setting.ours, asked)


def _weights(config: Any) -> int:
    """Return the number of weights that multiply every token, without embedding and head."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = hidden // config.num_attention_heads * config.num_key_value_heads
    layer = 2 * hidden * hidden + 2 * hidden * width + 3 * hidden * inner
    return config.num_hidden_layers * layer


def _useful_flop(setting: Setting, row: dict[str, Any], tokens: int) -> float:
    """Return FLOPs of a row's training for so many tokens, without LoRA, attention and padding."""
    config = setting.config
    logits = config.hidden_size * config.vocab_size * row["response_tokens"]
    return 4.0 * (_weights(config) * tokens + logits)


def _shapes(product: dict[str, Any]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in product["shapes"].items())


def _ours(rows: Rows, setting: Setting, steps: int) -> Result:
    asked = setting.ours_trained(setting.mixture(), steps)
    return rows.measure("train", f"ours {setting.dtype}", "ours_train", setting.ours, asked)


def _trl(rows: Rows, setting: Setting, dtype: str, config: Config, steps: int) -> Result:
    form, size, in_order, attention, trainer = config
    asked = setting.trained(setting.mixture(), steps) | {
        "dtype": dtype,
        "form": form,
        "per_device": 1 if form == "packed" else size,
        "max_length": size,
        "sorted": in_order,
        "attention": attention,
        "trainer": trainer,
        "multiple": None,
        "compile": False,
    }
    name = f"{trainer} {dtype} {_title(config)}, {steps} steps"
    return rows.measure("train", name, "peer_trl", setting.trl, asked)


def _best_trl(
    rows: Rows, setting: Setting, *, packed: bool = True
) -> tuple[tuple[str, Config] | None, str]:
    """Return TRL's fastest settings over a few steps, and a note on those that cannot run."""
    configs: list[Config] = [
        *(("padded", size, True, "sdpa", "trl") for size in setting.sizes.per_device),
        # Without sorting, as by default, and with the other attention.
        ("padded", setting.sizes.batch // 2, False, "sdpa", "trl"),
        ("padded", 4, True, "eager", "trl"),
        *(("free", size, True, "sdpa", "trl") for size in setting.together),
        *(("packed", length, False, "sdpa", "trl") for length in setting.sizes.packed if packed),
    ]
    screen = {
        (dtype, config): _trl(rows, setting, dtype, config, setting.sizes.screen)
        for dtype in setting.peer_dtypes
        for config in configs
    }
    failed = [
        f"; {dtype} {_title(config)} cannot run: {row['error']}"
        for (dtype, config), row in screen.items()
        if row and "error" in row
    ]
    return quickest(screen), "".join(failed)


def _llamafactory(
    rows: Rows, setting: Setting, dtype: str, form: str, size: int, steps: int
) -> Result:
    asked = setting.trained(setting.mixture(), steps) | {
        "dtype": dtype,
        "form": form,
        "per_device": size,
        "sorted": True,
        "attention": "sdpa",
    }
    name = f"LLaMA-Factory {dtype} {_title((form, size, True, 'sdpa', ''))}, {steps} steps"
    return rows.measure("llamafactory", name, "peer_llamafactory", setting.llama_factory, asked)


def _title(config: Config) -> str:
    form, size, in_order, attention, _ = config
    if form == "packed":
        return f"packed to {size}" if size > 16 else f"{size} examples packed"
    order = "sorted by length" if in_order else "as drawn"
    what = "per device" if form == "padded" else "per device, padding-free"
    return f"{size} {what}, {order}, {attention}"


def _losses(row: Result) -> list[float]:
    return (row or {}).get("losses", [])


def _apart(ours: Result, peer: Result) -> str:
    """Return a note on the largest difference between the loss curves."""
    if not measured(ours) or not measured(peer):
        return ""
    differences = [abs(a - b) for a, b in zip(_losses(ours), _losses(peer), strict=False)]
    low, high = min(_losses(ours)), max(_losses(ours))
    return f"; losses ({low:.2f} to {high:.2f}) differ by {max(differences):.4f} at most"
